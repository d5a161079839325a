// Digests that name content: SHA-256 (conversion metadata, large files of the hub) and git's blob SHA-1 (its small
// ones). Source: FIPS 180-4; git's object format, "blob <size>\0" before the content.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace raedit {

class Digest {
 public:
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;

  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  // Lower-case hex of all that came so far; more may follow.
  std::string hex() const;

 protected:
  explicit Digest(const char* algorithm);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class Sha256 : public Digest {
 public:
  Sha256() : Digest("SHA256") {}
};

class Sha1 : public Digest {
 public:
  Sha1() : Digest("SHA1") {}
};

// What git calls a file with this many bytes, which are to be fed to it.
class GitBlobSha1 : public Sha1 {
 public:
  explicit GitBlobSha1(uint64_t size);
};

// Called after every piece; return false to cancel: Error(cancelled).
using HashProgress = std::function<bool(uint64_t done, uint64_t total)>;

// Reads in pieces of 1 MiB. Throws as read_file does.
std::string sha256_of_file(const std::string& path, const HashProgress& progress = {});
std::string git_blob_sha1_of_file(const std::string& path, const HashProgress& progress = {});
// Feeds the whole file to `digest`.
void hash_file(Digest& digest, const std::string& path, const HashProgress& progress = {});

}  // namespace raedit

// OpenSSL's EVP digests, fed in pieces.
#include "io/hash.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <vector>

#include "core/check.h"
#include "io/files.h"

namespace raedit {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 20;

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { ::EVP_MD_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_MD_CTX, FreeContext>;

Context new_context() {
  Context context(::EVP_MD_CTX_new());
  RAEDIT_CHECK(context != nullptr, {.code = ErrorCode::out_of_memory, .what = "out of memory", .where = "hash"});
  return context;
}

void require(bool worked, const char* action) {
  RAEDIT_CHECK(worked, {.code = ErrorCode::unsupported,
                        .what = std::string("OpenSSL cannot ") + action,
                        .where = "hash",
                        .hint = "its configuration may have switched this digest off"});
}

class RegularFile {
 public:
  explicit RegularFile(const std::string& path) {
    // Non-blocking, so that a pipe in place of the file is an error and not a hang.
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd_ < 0) raise_read_error("cannot open", path, errno);
    struct stat status {};
    const int error_number = ::fstat(fd_, &status) != 0 ? errno : S_ISDIR(status.st_mode) ? EISDIR : 0;
    if (error_number == 0 && S_ISREG(status.st_mode)) {
      size_ = static_cast<uint64_t>(status.st_size);
      return;
    }
    ::close(fd_);
    if (error_number != 0) raise_read_error("cannot read", path, error_number);
    raise({.code = ErrorCode::io, .what = "is not a regular file", .where = path});
  }
  ~RegularFile() { ::close(fd_); }
  RegularFile(const RegularFile&) = delete;
  RegularFile& operator=(const RegularFile&) = delete;

  uint64_t size() const { return size_; }
  ssize_t read(void* data, size_t bytes) const { return ::read(fd_, data, bytes); }

 private:
  int fd_;
  uint64_t size_ = 0;
};

// Returns the number of bytes that there were.
uint64_t feed(Digest& digest, const RegularFile& file, const std::string& path, const HashProgress& progress) {
  std::vector<char> piece(kPieceBytes);
  uint64_t done = 0;
  for (;;) {
    const ssize_t got = file.read(piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) raise_read_error("cannot read", path, errno);
    if (got == 0) return done;
    digest.update(piece.data(), static_cast<size_t>(got));
    done += static_cast<uint64_t>(got);
    RAEDIT_CHECK(!progress || progress(done, file.size()),
                 {.code = ErrorCode::cancelled, .what = "cancelled", .where = path});
  }
}

}  // namespace

struct Digest::State {
  Context context;
};

Digest::Digest(const char* algorithm) : state_(new State{new_context()}) {
  const EVP_MD* digest = ::EVP_get_digestbyname(algorithm);
  require(digest != nullptr && ::EVP_DigestInit_ex(state_->context.get(), digest, nullptr) == 1, "compute digests");
}

Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;

void Digest::update(const void* data, size_t bytes) {
  require(::EVP_DigestUpdate(state_->context.get(), data, bytes) == 1, "update a digest");
}

std::string Digest::hex() const {
  const Context copy = new_context();
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
  unsigned int length = 0;
  require(::EVP_MD_CTX_copy_ex(copy.get(), state_->context.get()) == 1, "copy a digest");
  require(::EVP_DigestFinal_ex(copy.get(), bytes.data(), &length) == 1, "finish a digest");
  std::string text;
  for (unsigned int i = 0; i < length; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

GitBlobSha1::GitBlobSha1(uint64_t size) {
  const std::string head = fmt::format("blob {}", size);
  update(head.c_str(), head.size() + 1);
}

void hash_file(Digest& digest, const std::string& path, const HashProgress& progress) {
  feed(digest, RegularFile(path), path, progress);
}

std::string sha256_of_file(const std::string& path, const HashProgress& progress) {
  Sha256 digest;
  hash_file(digest, path, progress);
  return digest.hex();
}

std::string git_blob_sha1_of_file(const std::string& path, const HashProgress& progress) {
  const RegularFile file(path);
  GitBlobSha1 digest(file.size());
  const uint64_t found = feed(digest, file, path, progress);
  RAEDIT_CHECK(found == file.size(), {.code = ErrorCode::io,
                                      .what = "the file changed while it was read",
                                      .where = path,
                                      .found = fmt::format("{} bytes", found),
                                      .expected = fmt::format("{} bytes", file.size())});
  return digest.hex();
}

}  // namespace raedit

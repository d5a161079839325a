// The cache on disk, in the layout of huggingface_hub ("Understand caching" in its documentation):
//
//   models--org--name/blobs/<etag>                 the content, under its final name only when it is whole and right
//   models--org--name/blobs/<etag>.incomplete      what there is of it so far
//   models--org--name/refs/<revision>              the commit, as text
//   models--org--name/snapshots/<commit>/<path>    a link to ../../blobs/<etag>, or a plain file
//   .locks/models--org--name/<etag>.lock           held while the blob is written
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace raedit::hub {

class CacheFolder {
 public:
  CacheFolder(const std::string& cache_dir, const std::string& repo);

  const std::string& path() const { return storage_; }
  std::string blob(const std::string& etag) const { return storage_ + "/blobs/" + etag; }
  std::string snapshot(const std::string& commit) const { return storage_ + "/snapshots/" + commit; }

  // The commit that a revision stood for when it was last asked for, if there is a snapshot of it.
  std::optional<std::string> commit_of(const std::string& revision) const;
  // Where a file of a snapshot is, or nullopt; a link to a blob that is gone is no file.
  std::optional<std::string> find(const std::string& commit, const std::string& path) const;
  std::vector<std::string> files(const std::string& commit) const;  // sorted

  // Makes the blob appear in the snapshot.
  void link(const std::string& commit, const std::string& path, const std::string& etag) const;
  void write_ref(const std::string& revision, const std::string& commit) const;
  // The folders that a download of this blob writes to.
  void create_folders() const;

 private:
  friend class BlobLock;
  std::string storage_;
  std::string locks_;
};

// All regular files below `folder`, as paths with '/', sorted. Links to files count, links to folders are not followed.
std::vector<std::string> files_below(const std::string& folder);
bool is_folder(const std::string& path);

// Held by one thread of one process at a time; huggingface_hub takes the same lock.
class BlobLock {
 public:
  // `wait` is called between tries and may throw.
  BlobLock(const CacheFolder& cache, const std::string& etag, const std::function<void()>& wait);
  ~BlobLock();
  BlobLock(const BlobLock&) = delete;
  BlobLock& operator=(const BlobLock&) = delete;

 private:
  bool try_once(const std::string& path);
  int fd_ = -1;
};

}  // namespace raedit::hub

#include "io/zip_archive.h"

#include <fmt/format.h>
#include <zip.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/text.h"
#include "io/crc32.h"
#include "io/safetensors_format.h"

namespace raedit {

using safetensors_format::in_quotes;

namespace {

constexpr uint64_t kBombBytes = uint64_t{64} << 20;
constexpr uint64_t kBombRatio = 256;
constexpr size_t kCrcPiece = size_t{16} << 20;

struct EntryCloser {
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};
using OpenEntry = std::unique_ptr<zip_file_t, EntryCloser>;

std::string_view content_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

}  // namespace

// What libzip reads from: the mapping. It tells no offsets, but it has to ask for the bytes, and so says where they
// are.
struct ZipArchive::Source {
  const MappedFile* file = nullptr;
  uint64_t position = 0;
  uint64_t last_read = 0;
  zip_error_t error{};

  static zip_int64_t callback(void* state, void* data, zip_uint64_t length, zip_source_cmd_t command) {
    return static_cast<Source*>(state)->handle(data, length, command);
  }

  zip_int64_t handle(void* data, zip_uint64_t length, zip_source_cmd_t command) {
    switch (command) {
      case ZIP_SOURCE_OPEN: position = 0; return 0;
      case ZIP_SOURCE_READ: {
        const uint64_t count = std::min<uint64_t>(length, file->size() - position);
        last_read = position;
        if (count > 0) std::memcpy(data, file->data() + position, count);
        position += count;
        return static_cast<zip_int64_t>(count);
      }
      case ZIP_SOURCE_SEEK: {
        const zip_int64_t target = zip_source_seek_compute_offset(position, file->size(), data, length, &error);
        if (target < 0) return -1;
        position = static_cast<uint64_t>(target);
        return 0;
      }
      case ZIP_SOURCE_TELL: return static_cast<zip_int64_t>(position);
      case ZIP_SOURCE_STAT: {
        auto* stat = static_cast<zip_stat_t*>(data);
        zip_stat_init(stat);
        stat->size = file->size();
        stat->valid |= ZIP_STAT_SIZE;
        return sizeof(zip_stat_t);
      }
      case ZIP_SOURCE_ERROR: return zip_error_to_data(&error, data, length);
      case ZIP_SOURCE_CLOSE:
      case ZIP_SOURCE_FREE: return 0;
      case ZIP_SOURCE_SUPPORTS: return ZIP_SOURCE_SUPPORTS_SEEKABLE;
      default: zip_error_set(&error, ZIP_ER_OPNOTSUPP, 0); return -1;
    }
  }
};

ZipArchive::ZipArchive(std::shared_ptr<const MappedFile> file)
    : file_(std::move(file)), source_(std::make_unique<Source>()) {
  source_->file = file_.get();
  zip_error_init(&source_->error);
}

ZipArchive::~ZipArchive() {
  if (zip_ != nullptr) zip_discard(zip_);
  zip_error_fini(&source_->error);
}

std::unique_ptr<ZipArchive> ZipArchive::open(std::shared_ptr<const MappedFile> file) {
  std::unique_ptr<ZipArchive> archive(new ZipArchive(std::move(file)));
  archive->open_directory();
  return archive;
}

void ZipArchive::fail(const std::string& what, const std::string& found) const {
  raise({.code = ErrorCode::format,
         .what = what,
         .where = file_->path(),
         .found = found,
         .hint = "download or copy the file again"});
}

void ZipArchive::open_directory() {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_function_create(&Source::callback, source_.get(), &error);
  if (source != nullptr) zip_ = zip_open_from_source(source, ZIP_RDONLY, &error);
  if (source != nullptr && zip_ == nullptr) zip_source_free(source);
  const int code = zip_error_code_zip(&error);
  const std::string reason = zip_ == nullptr ? zip_error_strerror(&error) : "";
  zip_error_fini(&error);
  if (zip_ == nullptr) {
    if (code == ZIP_ER_NOZIP || code == ZIP_ER_EOF)
      fail(fmt::format("truncated: the zip directory at its end is missing; the file ends at byte {}", file_->size()));
    fail("the zip directory is damaged", reason);
  }
  const zip_int64_t count = zip_get_num_entries(zip_, 0);
  for (zip_int64_t i = 0; i < count; ++i) read_entry(static_cast<uint64_t>(i));
  for (size_t i = 0; i < entries_.size(); ++i)
    if (!index_.emplace(entries_[i].name, i).second) fail("zip entry " + in_quotes(entries_[i].name) + " comes twice");
}

void ZipArchive::read_entry(uint64_t index) {
  constexpr zip_uint64_t kNeeded = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD |
                                   ZIP_STAT_CRC | ZIP_STAT_ENCRYPTION_METHOD;
  zip_stat_t stat;
  zip_stat_init(&stat);
  const char* name = zip_get_name(zip_, index, ZIP_FL_ENC_RAW);
  if (name == nullptr || zip_stat_index(zip_, index, 0, &stat) != 0 || (stat.valid & kNeeded) != kNeeded)
    fail(fmt::format("zip entry {} is damaged", index), zip_strerror(zip_));
  const std::string label = "zip entry " + in_quotes(name);
  const auto refuse = [&](const std::string& what, const std::string& hint) {
    raise({.code = ErrorCode::unsupported, .what = label + what, .where = file_->path(), .hint = hint});
  };
  if (stat.encryption_method != ZIP_EM_NONE) refuse(" is encrypted", "torch.save does not encrypt; unpack it first");
  if (stat.comp_method != ZIP_CM_STORE && stat.comp_method != ZIP_CM_DEFLATE)
    refuse(fmt::format(" is packed by method {}", stat.comp_method), "only stored and deflated entries can be read");
  if (stat.comp_size > file_->size())
    fail(label + " is larger than the file", fmt::format("{} of {} bytes", stat.comp_size, file_->size()));
  ZipEntry entry{name, index, stat.size, stat.crc, stat.comp_method == ZIP_CM_STORE};
  if (entry.stored) {
    if (stat.size != stat.comp_size)
      fail(label + " is stored and has two sizes", fmt::format("{} and {} bytes", stat.size, stat.comp_size));
    entry.offset = offset_of(entry);
  } else if (stat.size > kBombBytes && stat.size / kBombRatio > stat.comp_size) {
    fail(label + " unpacks to suspiciously much",
         fmt::format("{} from {}", human_bytes(stat.size), human_bytes(stat.comp_size)));
  }
  entries_.push_back(std::move(entry));
}

uint64_t ZipArchive::offset_of(const ZipEntry& entry) {
  if (entry.bytes == 0) return 0;
  const OpenEntry open(zip_fopen_index(zip_, entry.index, ZIP_FL_COMPRESSED));
  char first = 0;
  if (open == nullptr || zip_fread(open.get(), &first, 1) != 1)
    fail("zip entry " + in_quotes(entry.name) + " cannot be read", zip_strerror(zip_));
  const uint64_t offset = source_->last_read;
  file_->drop_pages(offset, 1);  // where the kernel maps whole huge pages, looking at every record maps the file
  if (entry.bytes > file_->size() - offset)
    fail(fmt::format("truncated at byte {}: zip entry {} goes on beyond", file_->size(), in_quotes(entry.name)),
         fmt::format("{} bytes from byte {} on", entry.bytes, offset));
  return offset;
}

const ZipEntry* ZipArchive::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &entries_[it->second];
}

void ZipArchive::check_crc(const ZipEntry& entry) const {
  uint32_t crc = 0;
  for (uint64_t done = 0; done < entry.bytes; done += kCrcPiece) {
    const size_t piece = std::min<uint64_t>(kCrcPiece, entry.bytes - done);
    crc = crc32(crc, file_->data() + entry.offset + done, piece);
    if (entry.bytes > kBombBytes) file_->drop_pages(entry.offset + done, piece);  // one record can be the whole file
  }
  if (crc != entry.crc)
    fail(fmt::format("zip entry {} at byte {} is damaged", in_quotes(entry.name), entry.offset),
         fmt::format("CRC {:08x}, not {:08x}", crc, entry.crc));
}

std::shared_ptr<Storage> ZipArchive::inflate(const ZipEntry& entry) const {
  const std::lock_guard lock(mutex_);
  const OpenEntry open(zip_fopen_index(zip_, entry.index, 0));
  const std::string label = "zip entry " + in_quotes(entry.name);
  if (open == nullptr) fail(label + " cannot be read", zip_strerror(zip_));
  auto storage = Storage::allocate(entry.bytes);
  uint64_t done = 0;
  zip_int64_t got = 0;
  while (done < entry.bytes && (got = zip_fread(open.get(), storage->data() + done, entry.bytes - done)) > 0)
    done += static_cast<uint64_t>(got);
  char more = 0;
  if (done == entry.bytes && got >= 0) got = zip_fread(open.get(), &more, 1);  // checks the CRC
  if (got != 0 || done != entry.bytes)
    fail(label + " is damaged",
         got < 0 ? zip_file_strerror(open.get()) : fmt::format("{} bytes, not {}", done + (got > 0), entry.bytes));
  return storage;
}

std::string ZipArchive::read(const ZipEntry& entry) const {
  if (entry.stored) {
    check_crc(entry);
    return std::string(content_of(*file_).substr(entry.offset, entry.bytes));
  }
  const auto storage = inflate(entry);
  return {reinterpret_cast<const char*>(storage->data()), storage->bytes()};
}

}  // namespace raedit

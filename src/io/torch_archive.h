// What torch.save wrote: a zip of one pickle and one record of bytes per storage, or the format before torch 1.6, which
// is the same things one after the other. Read without executing anything: the unpickler knows tensors and plain
// containers, and refuses every other global by its name (pickle.h). Source: torch/serialization.py, torch/_utils.py,
// caffe2/serialize/inline_container.cc; PKWARE APPNOTE 6.3 for the zip.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "io/files.h"
#include "io/pickle.h"
#include "io/weight_set.h"

namespace raedit {

class TorchArchive {
 public:
  // Either format, told by content, not by name. Throws Error(not_found), Error(io); Error(format) naming the offset
  // where a file is truncated or is no torch archive; Error(unsupported) naming the global that is refused, and for tar
  // files (torch 0.1) and big-endian ones.
  static TorchArchive open(const std::string& path);

  // By content: a zip or a pickle.
  static bool looks_like_one(const std::string& path);

  const std::string& path() const;
  const PickleValue& root() const;

  // Of a PickleKind::tensor. Stored records are mapped, and their pages are let go with the last Tensor that looks at
  // them (one record can hold many tensors); deflated ones are inflated when asked for. The record's CRC is checked the
  // first time that one of its tensors is read. Throws Error(format) for what does not fit into its storage.
  TensorInfo info(const PickleValue& value) const;
  Tensor tensor(const PickleValue& value) const;
  // Lets the tensor's pages leave the resident set, where it lies in the file. They can be read again.
  void drop_pages(const PickleValue& value) const;
  void prefetch(const PickleValue& value) const;

  std::shared_ptr<const MappedFile> file() const;
  // "zip" or "legacy", for people.
  std::string_view format() const;

 private:
  struct State;
  explicit TorchArchive(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

// A dict of names to tensors as a WeightSet; `where` names it in messages ("model.pt: ema"). Throws Error(format) when
// `dict` is not a dict, or holds a key that is not a string or a value that is not a tensor, naming it.
std::shared_ptr<const WeightSet> state_dict_of(const TorchArchive& archive, const PickleValue& dict,
                                               const std::string& where);

}  // namespace raedit

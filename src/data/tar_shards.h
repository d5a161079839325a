// WebDataset: pictures and their classes in tar archives. Members in a row that share their name up to the first dot of
// the file name are one sample: a picture (jpg, jpeg, png or webp), and its class in `cls` (a number) or `json` (an
// object with the integer "label" or "cls"). Other members are passed over.
// Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/picture_set.h"

namespace raedit::data {

// "a-{000..002}-{x,y}.tar" as the shell expands it, the last list fastest. Throws Error(invalid_argument) for lists
// that are not closed, nested or endless.
std::vector<std::string> expand_braces(const std::string& pattern);

// Reads headers and classes, in the order of the shards. Class names are the lines of classes.txt beside the first
// shard, else "0", "1", ... up to the highest class there is. Throws Error(format) naming shard and sample for one
// without a picture or class; all of TarReader's.
std::shared_ptr<const PictureSet> open_tar_shards(const std::vector<std::string>& shards);

}  // namespace raedit::data

// Sets made of others: several as one, and some classes of one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/picture_set.h"

namespace raedit::data {

// All pictures, one set after the other. Classes of one name are one class; ids are the places of the names, sorted. A
// set that is there twice counts twice.
std::shared_ptr<const PictureSet> join_sets(std::vector<std::shared_ptr<const PictureSet>> sets);

// The pictures of these classes, whose ids are the places of the names, sorted. Throws Error(not_found) for a name that
// the set does not have, with the nearest.
std::shared_ptr<const PictureSet> select_classes(std::shared_ptr<const PictureSet> set,
                                                 const std::vector<std::string>& names);

}  // namespace raedit::data

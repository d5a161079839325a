#include "io/unpickler.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "core/text.h"

namespace raedit {

Unpickler::Unpickler(std::string_view bytes, const std::string& where, uint64_t offset)
    : graph_(std::make_shared<PickleGraph>()), globals_(*graph_), offset_(offset) {
  graph_->where = where;
  cut_ = bytes.size() > kMaxPickleBytes;
  bytes_ = bytes.substr(0, kMaxPickleBytes);
  rest_ = bytes_;
}

void Unpickler::fail(const std::string& what) const {
  raise({.code = ErrorCode::format,
         .what = fmt::format("damaged pickle at byte {}: {}", offset_ + at_, what),
         .where = graph_->where,
         .hint = "download or copy the file again"});
}

void Unpickler::refuse(const char* opcode) const {
  raise({.code = ErrorCode::unsupported,
         .what = fmt::format("pickle opcode {} at byte {} is refused", opcode, offset_ + at_),
         .where = graph_->where,
         .hint = "raedit reads tensors and plain containers only, and executes nothing"});
}

std::string_view Unpickler::take(uint64_t length) {
  if (length > rest_.size()) {
    RAEDIT_CHECK(!cut_, {.code = ErrorCode::format,
                         .what = "the pickle is too large",
                         .where = graph_->where,
                         .found = "more than " + human_bytes(kMaxPickleBytes),
                         .expected = "at most that: the numbers lie outside of it"});
    raise({.code = ErrorCode::format,
           .what = fmt::format("truncated at byte {}: the pickle goes on beyond", offset_ + bytes_.size()),
           .where = graph_->where,
           .found =
               fmt::format("{} left after byte {}", human_bytes(rest_.size()), offset_ + bytes_.size() - rest_.size()),
           .expected = human_bytes(length),
           .hint = "download or copy the file again"});
  }
  const std::string_view taken = rest_.substr(0, length);
  rest_.remove_prefix(length);
  return taken;
}

std::string_view Unpickler::line() {
  const size_t end = rest_.find('\n');
  const std::string_view taken = take(end == rest_.npos ? uint64_t{rest_.size()} + 1 : uint64_t{end} + 1);
  return taken.substr(0, taken.size() - 1);
}

uint64_t Unpickler::little_endian(size_t bytes) {
  const std::string_view taken = take(bytes);
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) value |= uint64_t{static_cast<unsigned char>(taken[i])} << (8 * i);
  return value;
}

void Unpickler::push(uint32_t node) {
  if (stack_.size() == stack_.capacity()) graph_->charge(std::max<size_t>(stack_.size(), 16) * sizeof(node));
  stack_.push_back(node);
}

void Unpickler::push_container(PickleKind kind, size_t items) {
  const size_t floor = marks_.empty() ? 0 : marks_.back();
  if (items > stack_.size() - floor) fail("the stack holds too little");
  std::vector<uint32_t> taken(stack_.end() - static_cast<std::ptrdiff_t>(items), stack_.end());
  stack_.resize(stack_.size() - items);
  push(graph_->add_container(kind, std::move(taken)));
}

uint32_t Unpickler::top() const {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("the stack is empty");
  return stack_.back();
}

uint32_t Unpickler::pop() {
  const uint32_t node = top();
  stack_.pop_back();
  return node;
}

size_t Unpickler::mark() {
  if (marks_.empty()) fail("there is no mark on the stack");
  const size_t position = marks_.back();
  marks_.pop_back();
  return position;
}

std::vector<uint32_t> Unpickler::since_mark() {
  const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(mark());
  std::vector<uint32_t> items(first, stack_.end());
  stack_.erase(first, stack_.end());
  return items;
}

void Unpickler::remember(uint64_t index) {
  const uint32_t node = top();
  if (memo_.insert_or_assign(index, node).second) graph_->charge(48);  // a node of the table
}

void Unpickler::recall(uint64_t index) {
  const auto it = memo_.find(index);
  if (it == memo_.end()) fail(fmt::format("there is no memo {}", index));
  push(it->second);
}

bool Unpickler::container(char opcode) {
  switch (opcode) {
    case '(':
      if (marks_.size() == marks_.capacity()) graph_->charge(std::max<size_t>(marks_.size(), 16) * sizeof(size_t));
      marks_.push_back(stack_.size());
      return true;
    case ')': push_container(PickleKind::tuple, 0); return true;
    case '\x85': push_container(PickleKind::tuple, 1); return true;
    case '\x86': push_container(PickleKind::tuple, 2); return true;
    case '\x87': push_container(PickleKind::tuple, 3); return true;
    case ']': push_container(PickleKind::list, 0); return true;
    case '}': push_container(PickleKind::dict, 0); return true;
    case '\x8f': push_container(PickleKind::set, 0); return true;
    case 't': push(graph_->add_container(PickleKind::tuple, since_mark())); return true;
    case 'l': push(graph_->add_container(PickleKind::list, since_mark())); return true;
    case '\x91': push(graph_->add_container(PickleKind::set, since_mark())); return true;
    case 'd': {
      std::vector<uint32_t> items = since_mark();
      if (items.size() % 2 != 0) fail("a dict has a key without a value");
      push(graph_->add_container(PickleKind::dict, std::move(items)));
      return true;
    }
    case 'a': extend({pop()}, PickleKind::list); return true;
    case 'e': extend(since_mark(), PickleKind::list); return true;
    case '\x90': extend(since_mark(), PickleKind::set); return true;
    case 'u': extend(since_mark(), PickleKind::dict); return true;
    case 's': {
      const uint32_t value = pop(), key = pop();
      extend({key, value}, PickleKind::dict);
      return true;
    }
    default: return false;
  }
}

void Unpickler::extend(const std::vector<uint32_t>& items, PickleKind kind) {
  const uint32_t target = top();
  if (!graph_->is(target, kind))
    fail(fmt::format("items are added to {}, not to {}", graph_->describe(target), to_string(kind)));
  if (kind == PickleKind::dict && items.size() % 2 != 0) fail("a dict has a key without a value");
  for (const uint32_t item : items) graph_->append(target, item);
}

bool Unpickler::memory(char opcode) {
  switch (opcode) {
    case 'p': remember(static_cast<uint64_t>(decimal())); return true;
    case 'q': remember(little_endian(1)); return true;
    case 'r': remember(little_endian(4)); return true;
    case '\x94': remember(memo_.size()); return true;
    case 'g': recall(static_cast<uint64_t>(decimal())); return true;
    case 'h': recall(little_endian(1)); return true;
    case 'j': recall(little_endian(4)); return true;
    case '0':
      if (!marks_.empty() && marks_.back() == stack_.size())
        marks_.pop_back();
      else
        pop();
      return true;
    case '1': since_mark(); return true;
    case '2': push(top()); return true;
    default: return false;
  }
}

bool Unpickler::object(char opcode) {
  switch (opcode) {
    case '\x80': {
      const uint64_t protocol = little_endian(1);
      if (protocol > 5) fail(fmt::format("there is no protocol {}", protocol));
      return true;
    }
    case '\x95':
      if (const uint64_t frame = little_endian(8); frame > rest_.size()) take(frame);
      return true;
    case 'c':
    case 'i': {
      const std::string_view module = line();
      push(globals_.find(module, line()));
      if (opcode == 'i') refuse("INST");
      return true;
    }
    case '\x93': {
      const uint32_t name = pop(), module = pop();
      if (!graph_->is(name, PickleKind::string) || !graph_->is(module, PickleKind::string))
        fail("a global's name is no string");
      const std::string owner(graph_->text_of(module)), member(graph_->text_of(name));
      push(globals_.find(owner, member));
      return true;
    }
    case 'R': {
      const uint32_t arguments = pop(), callable = pop();
      push(globals_.call(callable, arguments));
      return true;
    }
    case 'b': build(); return true;
    case 'P': fail("a persistent id is text, which torch never writes");
    case 'Q': persistent(); return true;
    case 'o': refuse("OBJ");
    case '\x81': refuse("NEWOBJ");
    case '\x92': refuse("NEWOBJ_EX");
    case '\x82': refuse("EXT1");
    case '\x83': refuse("EXT2");
    case '\x84': refuse("EXT4");
    case '\x97': refuse("NEXT_BUFFER");
    case '\x98': refuse("READONLY_BUFFER");
    default: return false;
  }
}

// An OrderedDict with attributes, such as the _metadata of a state dict. They say nothing about the tensors.
void Unpickler::build() {
  pop();
  if (!graph_->is(top(), PickleKind::dict))
    raise({.code = ErrorCode::unsupported,
           .what = fmt::format("pickle opcode BUILD at byte {} is refused", offset_ + at_),
           .where = graph_->where,
           .found = graph_->describe(top()),
           .expected = "a dict",
           .hint = "raedit reads tensors and plain containers only"});
}

void Unpickler::persistent() {
  const uint32_t node = globals_.storage(pop());
  const PickleStorage& storage = graph_->storages[graph_->nodes[node].index()];
  if (seen_.insert(storage.key).second) {
    graph_->charge(2 * (storage.key.size() + 64));
    storages_.push_back({storage.key, storage.numel, storage.item_bytes});
  }
  push(node);
}

PickleValue Unpickler::finish() {
  const uint32_t root = pop();
  if (!stack_.empty() || !marks_.empty()) fail("the stack is not empty at the end");
  return PickleValue(graph_, root);
}

ParsedPickle Unpickler::run() {
  while (true) {
    at_ = bytes_.size() - rest_.size();
    const char opcode = take(1)[0];
    if (opcode == '.') break;
    if (!number(opcode) && !text(opcode) && !container(opcode) && !memory(opcode) && !object(opcode))
      fail(fmt::format("there is no opcode 0x{:02x}", static_cast<unsigned char>(opcode)));
  }
  const PickleValue root = finish();
  return {root, bytes_.size() - rest_.size(), std::move(storages_)};
}

ParsedPickle parse_pickle(std::string_view bytes, const std::string& where, uint64_t offset) {
  return Unpickler(bytes, where, offset).run();
}

}  // namespace raedit

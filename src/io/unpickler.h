// The pickle machine: a stack, a memo and a byte string. Source: Lib/pickletools.py (protocols 0 to 5).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "io/pickle.h"
#include "io/pickle_globals.h"
#include "io/pickle_graph.h"

namespace raedit {

class Unpickler {
 public:
  Unpickler(std::string_view bytes, const std::string& where, uint64_t offset);

  ParsedPickle run();

 private:
  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void refuse(const char* opcode) const;

  // Bytes.
  std::string_view take(uint64_t length);
  std::string_view line();
  uint64_t little_endian(size_t bytes);
  int64_t decimal();

  // Stack.
  void push(uint32_t node);
  void push_text(PickleKind kind, std::string_view text);
  void push_container(PickleKind kind, size_t items);
  uint32_t pop();
  uint32_t top() const;
  size_t mark();
  std::vector<uint32_t> since_mark();
  void remember(uint64_t index);
  void recall(uint64_t index);

  // Opcodes, by what they are about.
  bool number(char opcode);
  bool text(char opcode);
  bool container(char opcode);
  bool memory(char opcode);
  bool object(char opcode);
  void long_integer(std::string_view bytes);
  void long_decimal(std::string_view digits);
  void old_string();
  void old_unicode();
  void unicode(std::string_view text);
  void bytes_or_string(std::string_view text);
  void extend(const std::vector<uint32_t>& items, PickleKind kind);
  void build();
  void persistent();

  PickleValue finish();

  std::shared_ptr<PickleGraph> graph_;
  PickleGlobals globals_;
  std::string_view bytes_;
  std::string_view rest_;
  uint64_t offset_;
  size_t at_ = 0;  // of the opcode that is being read
  bool cut_ = false;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, uint32_t> memo_;
  std::unordered_set<std::string> seen_;
  std::vector<PickledStorage> storages_;
};

}  // namespace raedit

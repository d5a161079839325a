// A program that answers line by line: started beside ours, asked through its standard input, ended with ours.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "interrupt.h"

namespace raedit::cli {

class ChildProcess {
 public:
  // Starts command[0], looked up in PATH, in a process group of its own so that Ctrl-C reaches us alone. `environment`
  // is added to ours. Throws Error(not_found) naming `option` when it cannot be started.
  ChildProcess(const std::vector<std::string>& command, const std::map<std::string, std::string>& environment,
               const std::string& option);
  // Ends its input, gives it a moment, then ends it and whatever it started.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  const std::string& name() const { return name_; }  // of the last file in its command

  // One line to its standard input; nothing happens when it has ended, which read_line() tells.
  void write_line(std::string line) const;
  // The next line of its standard output. Throws Error(io) when it ended, with the last line that it wrote to standard
  // error, or when `seconds` pass; Error(cancelled) when we are interrupted.
  std::string read_line(double seconds, const Interrupt& interrupt);

 private:
  [[noreturn]] void raise_ended();
  bool wait_for_end(int milliseconds);
  std::string last_words() const;

  pid_t id_ = -1;
  bool ended_ = false;
  int status_ = 0;
  int socket_ = -1;  // its standard input and output
  int errors_ = -1;  // what it writes to standard error
  std::string name_, read_;
};

}  // namespace raedit::cli

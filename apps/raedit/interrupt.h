// Ctrl-C as a CancelToken.
#pragma once

#include "raedit/progress.h"

namespace raedit::cli {

// While one of these lives, the first SIGINT or SIGTERM cancels the token; the second ends the process as usual.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  const CancelToken& token() const;
  // Throws Error(cancelled) once a signal came: for the phases that do not poll the token themselves.
  void throw_if_cancelled() const;
  // The signal that came last; SIGINT when none did.
  static int signal_number();
};

}  // namespace raedit::cli

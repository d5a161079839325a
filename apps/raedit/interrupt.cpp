#include "interrupt.h"

#include <csignal>

#include "core/check.h"

namespace raedit::cli {
namespace {

volatile std::sig_atomic_t last_signal = 0;
int alive = 0;  // Interrupts, which nest

// Made before the handler is installed, and never destroyed: a signal may come at any time.
const CancelToken& process_token() {
  static const CancelToken* token = new CancelToken;
  return *token;
}

void on_signal(int number) {
  last_signal = number;
  process_token().cancel();  // a lock-free atomic store
}

void install(void (*handler)(int), int flags) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

Interrupt::Interrupt() {
  process_token();
  if (alive++ == 0) install(on_signal, static_cast<int>(SA_RESETHAND | SA_RESTART));
}

Interrupt::~Interrupt() {
  if (--alive == 0) install(SIG_DFL, 0);
}

const CancelToken& Interrupt::token() const {
  return process_token();
}

void Interrupt::throw_if_cancelled() const {
  RAEDIT_CHECK(!token().cancelled(), {.code = ErrorCode::cancelled, .what = "cancelled"});
}

int Interrupt::signal_number() {
  return last_signal == 0 ? SIGINT : static_cast<int>(last_signal);
}

}  // namespace raedit::cli

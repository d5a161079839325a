#include "raedit/error.h"

#include "core/check.h"

namespace raedit {

const char* to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "invalid_argument";
    case ErrorCode::not_found: return "not_found";
    case ErrorCode::format: return "format";
    case ErrorCode::io: return "io";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::out_of_memory: return "out_of_memory";
    case ErrorCode::cancelled: return "cancelled";
    case ErrorCode::not_finite: return "not_finite";
    case ErrorCode::internal: return "internal";
  }
  return "unknown";
}

namespace {

// "where: what (found F, expected E); hint"
std::string compose(const ErrorInfo& info) {
  std::string text;
  if (!info.where.empty()) text += info.where + ": ";
  text += info.what;
  if (!info.found.empty() && !info.expected.empty())
    text += " (found " + info.found + ", expected " + info.expected + ")";
  else if (!info.found.empty())
    text += " (found " + info.found + ")";
  else if (!info.expected.empty())
    text += " (expected " + info.expected + ")";
  if (!info.hint.empty()) text += "; " + info.hint;
  return text;
}

}  // namespace

Error::Error(ErrorInfo info) : std::runtime_error(compose(info)), info_(std::move(info)) {}

void raise(ErrorInfo info) {
  throw Error(std::move(info));
}

}  // namespace raedit

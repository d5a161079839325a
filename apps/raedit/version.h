#pragma once

namespace raedit::cli {
inline constexpr const char* kVersion = RAEDIT_VERSION;
}

// In a test program that amx_emulator.cpp is linked into, RAEDIT_TEST_AMX=emulated lets the code for AMX run where the
// processor has none, instruction by instruction (a microsecond or two each): small sizes only. Where there is AMX, it
// does nothing.
#pragma once

#include <cstdint>

namespace raedit::test {

enum class AmxKind { none, emulated, processor };  // none: the code for AMX stands on AVX-512 with bfloat16, too

AmxKind amx_kind();

// How many instructions were emulated so far.
int64_t emulated_instructions();

}  // namespace raedit::test

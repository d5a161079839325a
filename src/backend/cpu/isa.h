// Which instruction sets this process may use: what the processor and the system offer, capped by the environment
// variable RAEDIT_FORCE_ISA=sse2|avx2|avx512|amx. It is a cap: a machine without AVX-512 stays at AVX2 for "avx512".
#pragma once

namespace raedit::backend::cpu {

enum class IsaCap { sse2, avx2, avx512, amx };

// Reads RAEDIT_FORCE_ISA once and caps Highway's dispatch in every file. Cheap afterwards; safe from any thread. Throws
// Error(invalid_argument) for an unknown value. isa_name() and everything below call it.
void ensure_isa();

// amx where the variable is not set.
IsaCap isa_cap();

// vdpbf16ps may be used: the processor has it, the system saves AVX-512 state, and the cap is avx512 or amx.
bool has_avx512_bf16();

// The same for vpdpbusd on 512 bits.
bool has_avx512_vnni();

// Tiles (amx.h) may be used: the processor has them with products of this type, the system saves them and let this
// process have them, everything that has_avx512_bf16() says holds, and the cap is amx.
bool has_amx_bf16();
bool has_amx_int8();

// For tests that run on an emulator of the tile instructions: from here on the processor counts as having them.
// Before the first product.
void assume_amx();

}  // namespace raedit::backend::cpu

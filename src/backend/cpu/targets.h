// Which instruction sets Highway compiles for: plain x86-64 (one lane at a time with this Highway version), AVX2 with
// FMA, and AVX-512. Include this before any hwy/ header, in every file that uses Highway.
#pragma once

#ifdef HIGHWAY_HWY_DETECT_TARGETS_H_
#error "backend/cpu/targets.h must come before every hwy/ header"
#endif

// The bits of HWY_AVX3_DL, HWY_SSE4 and HWY_SSSE3. These three would only add code that is hardly ever picked.
#define HWY_DISABLED_TARGETS ((1LL << 7) | (1LL << 11) | (1LL << 12))

#pragma once

/// Atomic operations of kernels. They hold between streams and processes too.

#include <bit>
#include <type_traits>

namespace emulation {

/// Puts change(old) where `old` was, and returns `old`.
template <class T, class Change>
T exchanged(T* at, const Change& change) {
  T old;
  __atomic_load(at, &old, __ATOMIC_RELAXED);
  T wanted = change(old);
  while (!__atomic_compare_exchange(at, &old, &wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
    wanted = change(old);
  return old;
}

}  // namespace emulation

#define EMULATED_ATOMIC(name, type, expression)                                 \
  inline type name(type* at, type value) {                                      \
    return emulation::exchanged(                                                \
        at, [value]([[maybe_unused]] type old) -> type { return expression; }); \
  }
#define EMULATED_ATOMICS_OF_INTEGERS(type)                                                        \
  EMULATED_ATOMIC(atomicAdd, type, old + value)                                                   \
  EMULATED_ATOMIC(atomicMax, type, old > value ? old : value)                                     \
  EMULATED_ATOMIC(atomicMin, type, old < value ? old : value)                                     \
  EMULATED_ATOMIC(atomicAnd, type, old& value)                                                    \
  EMULATED_ATOMIC(atomicOr, type, old | value)                                                    \
  EMULATED_ATOMIC(atomicXor, type, old ^ value)                                                   \
  EMULATED_ATOMIC(atomicExch, type, value)                                                        \
  inline type atomicCAS(type* at, type expected, type value) {                                    \
    return emulation::exchanged(at,                                                               \
                                [=](type old) -> type { return old == expected ? value : old; }); \
  }
EMULATED_ATOMICS_OF_INTEGERS(int)
EMULATED_ATOMICS_OF_INTEGERS(unsigned)
EMULATED_ATOMICS_OF_INTEGERS(unsigned long long)
EMULATED_ATOMIC(atomicAdd, float, old + value)
EMULATED_ATOMIC(atomicAdd, double, old + value)
EMULATED_ATOMIC(atomicExch, float, value)
EMULATED_ATOMIC(atomicSub, int, old - value)
EMULATED_ATOMIC(atomicSub, unsigned, old - value)
EMULATED_ATOMIC(atomicInc, unsigned, old >= value ? 0u : old + 1u)
#undef EMULATED_ATOMICS_OF_INTEGERS
#undef EMULATED_ATOMIC

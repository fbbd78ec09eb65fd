#pragma once

/// What CUDA adds to C++ inside kernels: qualifiers, the built-in variables, barriers, conversions
/// of bits, hinted loads and stores.

#include <bit>
#include <cstdint>

#include "emulated/vectors.hpp"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
/// A block runs on one thread of the system, so its memory is that thread's.
#define __shared__ static thread_local

// Set before a block and a thread go on.
extern __thread uint3 threadIdx;
extern __thread uint3 blockIdx;
extern __thread dim3 blockDim;
extern __thread dim3 gridDim;
constexpr int warpSize = 32;

namespace emulation {

/// Where a kernel calls.
struct Place {
  const char* function = "";
  const char* file = "";
  int line = 0;
};

void barrier(const Place& place);
int barrier_count(int predicate, const Place& place);
void pause_thread(unsigned nanoseconds);
long long device_clock();
[[noreturn]] void kernel_trap();

}  // namespace emulation

#define EMULATED_PLACE() const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATED_PLACE()) {
  emulation::barrier({"__syncthreads", file, line});
}
inline int __syncthreads_count(int predicate, EMULATED_PLACE()) {
  return emulation::barrier_count(predicate, {"__syncthreads_count", file, line});
}
inline int __syncthreads_or(int predicate, EMULATED_PLACE()) {
  return emulation::barrier_count(predicate, {"__syncthreads_or", file, line}) > 0;
}
inline int __syncthreads_and(int predicate, EMULATED_PLACE()) {
  return emulation::barrier_count(predicate == 0, {"__syncthreads_and", file, line}) == 0;
}

inline void __threadfence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
inline void __threadfence_block() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
inline void __threadfence_system() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

inline void __nanosleep(unsigned nanoseconds) {
  emulation::pause_thread(nanoseconds);
}
inline long long clock64() {
  return emulation::device_clock();
}
inline void __trap() {
  emulation::kernel_trap();
}

inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
inline float __uint_as_float(unsigned x) {
  return std::bit_cast<float>(x);
}
inline int __float_as_int(float x) {
  return std::bit_cast<int>(x);
}
inline float __int_as_float(int x) {
  return std::bit_cast<float>(x);
}
inline long long __double_as_longlong(double x) {
  return std::bit_cast<long long>(x);
}
inline double __longlong_as_double(long long x) {
  return std::bit_cast<double>(x);
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __popcll(unsigned long long x) {
  return __builtin_popcountll(x);
}
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= ((x >> i) & 1u) << (31 - i);
  return reversed;
}

#define EMULATED_LOAD(name)      \
  template <class T>             \
  inline T name(const T* from) { \
    return *from;                \
  }
EMULATED_LOAD(__ldg)
EMULATED_LOAD(__ldcs)
EMULATED_LOAD(__ldcg)
EMULATED_LOAD(__ldca)
EMULATED_LOAD(__ldcv)
EMULATED_LOAD(__ldlu)
#undef EMULATED_LOAD

#define EMULATED_STORE(name)         \
  template <class T>                 \
  inline void name(T* to, T value) { \
    *to = value;                     \
  }
EMULATED_STORE(__stcs)
EMULATED_STORE(__stcg)
EMULATED_STORE(__stwb)
EMULATED_STORE(__stwt)
#undef EMULATED_STORE

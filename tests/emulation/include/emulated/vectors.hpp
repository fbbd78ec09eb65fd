#pragma once

/// CUDA's vector types, with its alignments. They may alias anything, as accesses through them do
/// on a GPU.

#define EMULATED_VECTOR(alignment) struct __attribute__((may_alias, aligned(alignment)))

EMULATED_VECTOR(8) int2 {
  int x, y;
};
EMULATED_VECTOR(16) int4 {
  int x, y, z, w;
};
struct uint3 {
  unsigned x, y, z;
};
EMULATED_VECTOR(8) uint2 {
  unsigned x, y;
};
EMULATED_VECTOR(16) uint4 {
  unsigned x, y, z, w;
};
EMULATED_VECTOR(8) float2 {
  float x, y;
};
EMULATED_VECTOR(16) float4 {
  float x, y, z, w;
};
EMULATED_VECTOR(16) double2 {
  double x, y;
};
EMULATED_VECTOR(16) longlong2 {
  long long x, y;
};
EMULATED_VECTOR(16) ulonglong2 {
  unsigned long long x, y;
};

#undef EMULATED_VECTOR

inline int2 make_int2(int x, int y) {
  return {x, y};
}
inline int4 make_int4(int x, int y, int z, int w) {
  return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) {
  return {x, y, z};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline double2 make_double2(double x, double y) {
  return {x, y};
}
inline longlong2 make_longlong2(long long x, long long y) {
  return {x, y};
}
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) {
  return {x, y};
}

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

// SPDX-License-Identifier: Apache-2.0
// common.h - what every native file shares; compiled by the host compiler, nvcc and NVRTC (no system headers there).
//
// Arithmetic headers (<op>.h) are templates on the number type: float on CUDA and in scalar code, simd.h's 16-lane
// `Vf` in the CPU launchers. They use the overloads below instead of <cmath>, so that one body serves all.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define DL_HD __host__ __device__ __forceinline__
#define DL_APART DL_HD
#else
#include <cmath>
#include <cstdint>
#include <cstring>
#define DL_HD inline __attribute__((always_inline))
#define DL_APART __attribute__((noinline))  // a template that leaves the code around its call as it would be without
#endif

#if defined(__CUDACC_RTC__)
typedef signed int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef unsigned short uint16_t;
typedef unsigned char uint8_t;
#elif defined(__CUDACC__)
#include <cstdint>
#endif

// A function the Python side calls.
#define DL_API extern "C" __attribute__((visibility("default")))

namespace dl {

DL_HD float sqrt_(float x) { return sqrtf(x); }
DL_HD float abs_(float x) { return fabsf(x); }
DL_HD float min_(float a, float b) { return a < b ? a : b; }
DL_HD float max_(float a, float b) { return a > b ? a : b; }
DL_HD float select(bool c, float a, float b) { return c ? a : b; }
DL_HD float exp2_(float x) { return exp2f(x); }
DL_HD float log2_(float x) { return log2f(x); }
DL_HD float reciprocal(float x) { return 1.f / x; }
DL_HD bool any(bool c) { return c; }

// False for NaN and both infinities, under every optimisation flag: NaN - NaN and Inf - Inf are not 0.
DL_HD bool finite_(float x) { return x - x == 0.f; }

}  // namespace dl

#if !defined(__CUDACC__) && !defined(__CUDACC_RTC__)
#include "simd.h"  // here, because templates find overloads for built-in vector types only when declared before
#endif

namespace dl {

template <class T>
struct Vec3 {
  T x, y, z;
};
template <class T>
DL_HD Vec3<T> operator+(Vec3<T> a, Vec3<T> b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
template <class T>
DL_HD Vec3<T> operator-(Vec3<T> a, Vec3<T> b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
template <class T, class S>
DL_HD Vec3<T> operator*(S s, Vec3<T> a) { return {s * a.x, s * a.y, s * a.z}; }
template <class T>
DL_HD T dot(Vec3<T> a, Vec3<T> b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
template <class T>
DL_HD Vec3<T> cross(Vec3<T> a, Vec3<T> b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

}  // namespace dl

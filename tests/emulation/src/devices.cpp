// Devices and their properties. Kernels of all devices run in the one device process.

#include <cstdio>
#include <cstring>

#include "counting.hpp"
#include "errors.hpp"
#include "process.hpp"
#include "streams.hpp"

namespace emulation {
namespace {

thread_local int device_of_thread = 0;
bool peers[most_devices][most_devices];

constexpr int multiprocessors = 3;  // few, and no power of two
constexpr int threads_of_multiprocessor = 2048;
constexpr std::size_t shared_of_block = 48 << 10;

int device_count() {
  static const auto count = static_cast<int>(setting("EMULATION_DEVICES", 1));
  if (count < 0 || count > most_devices)
    fatal("EMULATION_DEVICES is {}; it must be 0 to {}", count, most_devices);
  return count;
}

cudaError_t check_device(int device, const char* call) {
  if (device >= 0 && device < device_count()) return cudaSuccess;
  return misuse(cudaErrorInvalidDevice, "{} was given device {}; there are {}", call, device,
                device_count());
}

}  // namespace

int current_device() {
  return device_of_thread;
}

cudaError_t resident_blocks(int* blocks, int threads, std::size_t shared_bytes) {
  *blocks = threads <= 0 || threads > 1024 || shared_bytes > shared_of_block
                ? 0
                : threads_of_multiprocessor / threads;
  return cudaSuccess;
}

}  // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  EMULATION_TRY(enter("cudaGetDeviceCount"));
  *count = device_count();
  return *count == 0 ? noted(cudaErrorNoDevice) : cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  EMULATION_TRY(enter("cudaSetDevice"));
  EMULATION_TRY(check_device(device, "cudaSetDevice"));
  device_of_thread = device;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = device_of_thread;
  return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned /*flags*/) {
  return enter("cudaSetDeviceFlags");
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  EMULATION_TRY(enter("cudaGetDeviceProperties"));
  EMULATION_TRY(check_device(device, "cudaGetDeviceProperties"));
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulated GPU");
  for (int i = 0; i < 16; ++i) properties->uuid.bytes[i] = static_cast<char>(0x40 + i);
  properties->uuid.bytes[15] = static_cast<char>(device);
  properties->totalGlobalMem = static_cast<std::size_t>(total_memory());
  properties->sharedMemPerBlock = shared_of_block;
  properties->regsPerBlock = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 0x7FFFFFFF;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->major = 9;
  properties->multiProcessorCount = multiprocessors;
  properties->canMapHostMemory = 1;
  properties->concurrentKernels = 1;
  properties->pciBusID = device + 1;
  properties->asyncEngineCount = 3;
  properties->unifiedAddressing = 1;
  properties->memoryBusWidth = 5120;
  properties->l2CacheSize = 50 << 20;
  properties->maxThreadsPerMultiProcessor = threads_of_multiprocessor;
  properties->streamPrioritiesSupported = 1;
  properties->managedMemory = 1;
  properties->concurrentManagedAccess = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  EMULATION_TRY(cudaGetDeviceProperties(&properties, device));
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = properties.maxThreadsPerMultiProcessor;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
    case cudaDevAttrCooperativeLaunch:
      *value = properties.cooperativeLaunch;
      return cudaSuccess;
  }
  return misuse(cudaErrorInvalidValue, "cudaDeviceGetAttribute: unknown attribute {}",
                static_cast<int>(attribute));
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  EMULATION_TRY(check_device(device, "cudaDeviceGetPCIBusId"));
  std::snprintf(text, static_cast<std::size_t>(length), "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  EMULATION_TRY(check_device(device, "cudaDeviceCanAccessPeer"));
  EMULATION_TRY(check_device(peer, "cudaDeviceCanAccessPeer"));
  *can = device != peer ? 1 : 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  EMULATION_TRY(enter("cudaDeviceEnablePeerAccess"));
  EMULATION_TRY(check_device(peer, "cudaDeviceEnablePeerAccess"));
  if (flags != 0 || peer == device_of_thread)
    return misuse(cudaErrorInvalidValue, "cudaDeviceEnablePeerAccess: device {} with flags {}",
                  peer, flags);
  if (peers[device_of_thread][peer]) return noted(cudaErrorPeerAccessAlreadyEnabled);
  peers[device_of_thread][peer] = true;
  return cudaSuccess;
}

cudaError_t cudaDeviceDisablePeerAccess(int peer) {
  EMULATION_TRY(enter("cudaDeviceDisablePeerAccess"));
  EMULATION_TRY(check_device(peer, "cudaDeviceDisablePeerAccess"));
  if (!peers[device_of_thread][peer]) return noted(cudaErrorPeerAccessNotEnabled);
  peers[device_of_thread][peer] = false;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  EMULATION_TRY(enter("cudaMemGetInfo"));
  *total = static_cast<std::size_t>(total_memory());
  *free = *total - static_cast<std::size_t>(bytes_allocated(device_of_thread));
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

}  // extern "C"

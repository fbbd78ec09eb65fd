# How everything here is compiled: C++20, strict IEEE arithmetic, warnings, ccache.

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo" FORCE)
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)

# GCC 12 warns of overlaps inside its own std::string at -O3.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  set(shardmix_false_alarms -Wno-restrict)
endif()

# One arithmetic on every machine: no contraction but the fma that the code spells out. The other two
# let the square root be a plain instruction; they change no result.
add_library(shardmix_settings INTERFACE)
# Not through CMAKE_CXX_STANDARD: CUDA would inherit it, and CMake 3.25 does not know C++20 for nvcc.
target_compile_features(shardmix_settings INTERFACE cxx_std_20)
target_compile_options(shardmix_settings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off -fno-math-errno -fno-trapping-math
                            -Wall -Wextra -Wconversion -Wshadow ${shardmix_false_alarms} $<$<BOOL:${SHARDMIX_WERROR}>:-Werror>>
  $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 -fmad=false -Xcompiler=-Wall,-Wextra
                            $<$<BOOL:${SHARDMIX_WERROR}>:-Werror=all-warnings>>)
target_include_directories(shardmix_settings INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)

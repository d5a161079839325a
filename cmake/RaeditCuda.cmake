# The CUDA device, where a CUDA toolkit (13 or newer) is found. RAEDIT_CUDA: AUTO builds it when nvcc is there, ON insists,
# OFF does not look. Sets RAEDIT_CUDA_FOUND.
set(RAEDIT_CUDA "AUTO" CACHE STRING "CUDA backend: AUTO (where nvcc is found), ON or OFF")
set_property(CACHE RAEDIT_CUDA PROPERTY STRINGS AUTO ON OFF)
set(RAEDIT_CUDA_ARCHITECTURES "80-real;90-real;100" CACHE STRING "What the portable kernels are compiled for")
set(RAEDIT_CUDA_FOUND OFF)
if(RAEDIT_CUDA STREQUAL "OFF" OR RAEDIT_BUILD_FUZZERS OR RAEDIT_SANITIZE)
  return()  # nvcc's host code and the sanitizers do not go together
endif()

find_program(RAEDIT_NVCC nvcc HINTS $ENV{CUDACXX} $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
if(RAEDIT_NVCC)
  execute_process(COMMAND ${RAEDIT_NVCC} --version OUTPUT_VARIABLE nvcc_says ERROR_QUIET)
  string(REGEX MATCH "release ([0-9]+)\\.([0-9]+)" nvcc_release "${nvcc_says}")
  set(nvcc_major "${CMAKE_MATCH_1}")
endif()
if(NOT RAEDIT_NVCC OR NOT nvcc_major GREATER_EQUAL 13)
  if(RAEDIT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "RAEDIT_CUDA=ON, but there is no nvcc 13 or newer (found: '${RAEDIT_NVCC}' ${nvcc_release}); "
                        "set CUDACXX to it or use RAEDIT_CUDA=AUTO")
  endif()
  message(STATUS "CUDA: no nvcc 13 or newer, building without it")
  return()
endif()

set(CMAKE_CUDA_COMPILER ${RAEDIT_NVCC})
set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
set(CMAKE_CUDA_ARCHITECTURES ${RAEDIT_CUDA_ARCHITECTURES})
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # CMake 3.25 does not know that nvcc speaks C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(RAEDIT_CUDA_FOUND ON)
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER_VERSION} for ${RAEDIT_CUDA_ARCHITECTURES}")

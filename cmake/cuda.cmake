# The CUDA 13 compiler and headers, from nvcc on PATH or from where deploy/install-deps.sh --cuda put NVIDIA's
# wheels. Only headers and the static runtime are used here: cuBLASLt, NCCL, NVML and the driver are opened at
# run time (kernels/shared_library.h), so that everything links, and runs on a CPU, without them.
#
# Gives the target tessera_cuda_headers and the language CUDA.
set(TESSERA_CUDA_ROOT "/opt/tessera/cuda" CACHE PATH "Where deploy/install-deps.sh --cuda puts its wheels")
set(wheels ${TESSERA_CUDA_ROOT}/nvidia)
find_program(TESSERA_NVCC nvcc HINTS ${wheels}/cu13/bin)
if(NOT TESSERA_NVCC)
  message(FATAL_ERROR "TESSERA_CUDA needs nvcc of CUDA 13 on PATH or in ${wheels}/cu13/bin; "
                      "`deploy/install-deps.sh --cuda` installs it")
endif()
get_filename_component(nvcc_real ${TESSERA_NVCC} REALPATH)
get_filename_component(cuda_home ${nvcc_real} DIRECTORY)
get_filename_component(cuda_home ${cuda_home} DIRECTORY)
find_library(cudart_static cudart_static REQUIRED NO_CACHE
             HINTS ${cuda_home}/lib64 ${cuda_home}/lib ${cuda_home}/targets/x86_64-linux/lib)
get_filename_component(cudart_folder ${cudart_static} DIRECTORY)

set(CMAKE_CUDA_COMPILER ${nvcc_real})
set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
# nvcc looks for libraries in lib64, which the wheels do not have.
set(CMAKE_CUDA_FLAGS_INIT "-L${cudart_folder}")
# Machine code for Hopper with its own instructions, and PTX that later GPUs compile at start.
set(CMAKE_CUDA_ARCHITECTURES OFF)
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13.0)
  message(FATAL_ERROR "${nvcc_real} is of CUDA ${CMAKE_CUDA_COMPILER_VERSION}; TESSERA_CUDA needs 13.0 or later")
endif()
set(CMAKE_CUDA_RUNTIME_LIBRARY None)
# CMake 3.25 does not know how the compiler is told what the C++ standard of the build is.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
if(CCACHE_PROGRAM)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${launcher})
endif()
# No contraction either: a product and a sum are fused only where fmaf says so.
set(TESSERA_CUDA_OPTIONS
  -gencode=arch=compute_90a,code=sm_90a -gencode=arch=compute_90,code=compute_90 --fmad=false
  --expt-relaxed-constexpr --extended-lambda -Werror all-warnings -Xcompiler=-Wall,-ffp-contract=off)

find_path(cuda_include cuda_runtime.h REQUIRED NO_CACHE
          HINTS ${cuda_home}/include ${cuda_home}/targets/x86_64-linux/include)
find_path(cublas_include cublasLt.h REQUIRED NO_CACHE HINTS ${cuda_include} ${wheels}/cu13/include)
find_path(nccl_include nccl.h REQUIRED NO_CACHE HINTS ${wheels}/nccl/include ${cuda_include})
add_library(tessera_cuda_headers INTERFACE)
target_include_directories(tessera_cuda_headers SYSTEM INTERFACE
                           ${cuda_include} ${cublas_include} ${nccl_include})
# The runtime is part of the program: what it needs of the driver it opens itself.
add_library(tessera_cuda_runtime INTERFACE)
target_link_libraries(tessera_cuda_runtime INTERFACE tessera_cuda_headers ${cudart_static} Threads::Threads
                      ${CMAKE_DL_LIBS} rt)

# The relocatable tree, by `cmake --install build/<preset> --prefix DIR`, and the same as a tarball, by
# `cpack --config build/<preset>/CPackConfig.cmake`:
#
#   bin/                  the programs, test and bench programs
#   lib/                  every shared library they need, but for the C library's and the driver's
#   share/tessera/        the demo model and the goldens, laid out as in the repository
#
# Programs find lib/ beside themselves. CUDA's libraries are opened at run time, from lib/ first:
# TESSERA_BUNDLE_CUDA=ON puts them there. Included last, when all targets exist.
option(TESSERA_BUNDLE_CUDA "Put cuBLASLt and NCCL into the installed tree (600 MB)" OFF)

set(products tessera tessera-coordinator tessera-worker)
# As far as they were built.
set(proofs tessera-kernels-bench tessera-comm-bench gpu_test kernels_cpu_test)
foreach(program ${products} ${proofs})
  if(NOT TARGET ${program})
    continue()
  endif()
  # RPATH proper, which the libraries' own dependencies are searched by too.
  set_target_properties(${program} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
  target_link_options(${program} PRIVATE -Wl,--disable-new-dtags)
  set(optional)
  if(program IN_LIST proofs)
    set(optional OPTIONAL)
  endif()
  install(TARGETS ${program} RUNTIME DESTINATION bin ${optional})
  list(APPEND bundled_files "${CMAKE_BINARY_DIR}/bin/${program}")
endforeach()

install(CODE "set(bundled_files \"${bundled_files}\")")
install(CODE [[
  foreach(program ${bundled_files})
    if(NOT EXISTS ${program})
      list(REMOVE_ITEM bundled_files ${program})
    endif()
  endforeach()
  # What every Linux has, and what has to fit the running kernel or driver.
  set(of_the_system "^ld-linux" "^libc\\.so" "^libm\\.so" "^libdl\\.so" "^librt\\.so" "^libpthread\\.so"
      "^libresolv\\.so" "^libanl\\.so" "^libutil\\.so" "^libnsl\\.so" "^libcuda\\.so" "^libnvidia")
  file(GET_RUNTIME_DEPENDENCIES EXECUTABLES ${bundled_files}
       RESOLVED_DEPENDENCIES_VAR found UNRESOLVED_DEPENDENCIES_VAR missing
       PRE_EXCLUDE_REGEXES ${of_the_system})
  if(missing)
    message(FATAL_ERROR "libraries that are nowhere: ${missing}")
  endif()
  foreach(library ${found})
    # Under the name that programs ask for, whatever the file is called.
    get_filename_component(name ${library} NAME)
    file(REAL_PATH ${library} file)
    file(MAKE_DIRECTORY "$ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}/lib")
    file(COPY_FILE ${file} "$ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}/lib/${name}" ONLY_IF_DIFFERENT)
    list(APPEND CMAKE_INSTALL_MANIFEST_FILES "${CMAKE_INSTALL_PREFIX}/lib/${name}")
  endforeach()
]])
if(TESSERA_CUDA AND TESSERA_BUNDLE_CUDA)
  install(FILES ${wheels}/cu13/lib/libcublasLt.so.13 ${wheels}/nccl/lib/libnccl.so.2 DESTINATION lib)
endif()
install(DIRECTORY deploy/demo-model DESTINATION share/tessera/deploy)
install(DIRECTORY tests/golden/models DESTINATION share/tessera/tests/golden
        FILES_MATCHING PATTERN "*.json" PATTERN "*.safetensors" PATTERN "logits.*")
install(FILES LICENSE README.md DESTINATION share/tessera)

set(CPACK_GENERATOR TXZ)
set(CPACK_PACKAGE_NAME tessera)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_STRIP_FILES ON)
set(CPACK_INCLUDE_TOPLEVEL_DIRECTORY ON)
set(CPACK_THREADS 2)
set(backend cpu)
if(TESSERA_CUDA)
  set(backend cuda)
endif()
set(CPACK_PACKAGE_FILE_NAME "tessera-${PROJECT_VERSION}-linux-x86_64-${backend}")
include(CPack)

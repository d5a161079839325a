# Several processes that train one model, where MPI is found. RAEDIT_MPI: AUTO builds it when there is an MPI, ON insists,
# OFF does not look. Sets RAEDIT_MPI_FOUND.
set(RAEDIT_MPI "AUTO" CACHE STRING "Training by several processes: AUTO (where MPI is found), ON or OFF")
set_property(CACHE RAEDIT_MPI PROPERTY STRINGS AUTO ON OFF)
set(RAEDIT_MPI_FOUND OFF)
if(RAEDIT_MPI STREQUAL "OFF" OR RAEDIT_BUILD_FUZZERS OR RAEDIT_SANITIZE)
  return()  # the plugin may have no undefined symbols, the sanitizers' own included
endif()

set(MPI_CXX_SKIP_MPICXX ON)  # the C interface; the one for C++ is long gone from the standard
if(RAEDIT_MPI STREQUAL "ON")
  find_package(MPI REQUIRED COMPONENTS CXX)
else()
  find_package(MPI COMPONENTS CXX)
endif()
if(NOT MPI_CXX_FOUND)
  message(STATUS "MPI: not found, building without it")
  return()
endif()
set(RAEDIT_MPI_FOUND ON)

# raedit_ranks_test(NAME RANKS numbers ... [EXIT status] ROOMS rooms ... SOURCES files ...)
#
# One GoogleTest program that mpirun starts as so many ranks at once, one ctest for each number. EXIT: what mpirun must end
# with, 0 by default.
function(raedit_ranks_test name)
  cmake_parse_arguments(ARG "" "EXIT" "RANKS;ROOMS;SOURCES" ${ARGN})
  list(TRANSFORM ARG_ROOMS PREPEND raedit_ OUTPUT_VARIABLE rooms)
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE RAEDIT_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/parity/data")
  target_link_libraries(${name} PRIVATE ${rooms} GTest::gtest_main)
  add_dependencies(${name} raedit_mpi)
  set(exit)
  if(ARG_EXIT)
    set(exit EXIT ${ARG_EXIT})
  endif()
  foreach(ranks ${ARG_RANKS})
    raedit_start_ranks(${name}.${ranks} ${ranks} ${exit} $<TARGET_FILE:${name}>)
  endforeach()
endfunction()

# raedit_start_ranks(TEST RANKS [EXIT status] PROGRAM arguments ...): a ctest that mpirun starts as so many ranks. What Open MPI must be
# told is in its environment, where another MPI does not see it: there may be more ranks than cores, and in a container
# neither another machine nor another user, nor the right to read the memory of a neighbour.
function(raedit_start_ranks test ranks)
  cmake_parse_arguments(ARG "" "EXIT" "" ${ARGN})
  set(start ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} ${ARG_UNPARSED_ARGUMENTS})
  if(ARG_EXIT)
    set(start sh -c "if \"$@\"\nthen exit 1\nelse test $? -eq ${ARG_EXIT}\nfi" sh ${start})
  endif()
  add_test(NAME ${test} COMMAND ${start})
  set_tests_properties(${test} PROPERTIES LABELS fast TIMEOUT 120 PROCESSORS ${ranks} ENVIRONMENT
    "RAEDIT_MPI_LIBRARY=$<TARGET_FILE:raedit_mpi>;RAEDIT_TEST_RANKS=${ranks};OMP_NUM_THREADS=1;OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_rmaps_base_oversubscribe=1;OMPI_MCA_hwloc_base_binding_policy=none;OMPI_MCA_mpi_yield_when_idle=1;OMPI_MCA_plm=isolated;OMPI_MCA_btl=self,vader;OMPI_MCA_btl_vader_single_copy_mechanism=none")
endfunction()

# raedit_test(NAME LABEL fast|parity|slow [ENVIRONMENT VARIABLE=value] ROOMS rooms ... SOURCES files ...)
#
# One GoogleTest program; every TEST in it becomes a ctest of its own. Tests find committed data under
# RAEDIT_TEST_DATA (tests/parity/data) and scratch space through testing::TempDir().
include(GoogleTest)
function(raedit_test name)
  cmake_parse_arguments(ARG "" "LABEL;ENVIRONMENT" "ROOMS;SOURCES" ${ARGN})
  list(TRANSFORM ARG_ROOMS PREPEND raedit_ OUTPUT_VARIABLE rooms)
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE RAEDIT_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/parity/data"
                                             RAEDIT_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_link_libraries(${name} PRIVATE ${rooms} GTest::gtest_main)
  gtest_discover_tests(${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT 600 ENVIRONMENT "${ARG_ENVIRONMENT}" DISCOVERY_TIMEOUT 60)
endfunction()

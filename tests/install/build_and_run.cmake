# Builds the project in SOURCE against the package in PREFIX and runs PROGRAM in the folder RUN_IN. EXPECTED, where
# given, is a PNG that it must write there.
file(REMOVE_RECURSE ${SCRATCH})
if(EXPECTED)
  file(REMOVE ${RUN_IN}/${EXPECTED})
endif()
execute_process(COMMAND ${CMAKE_COMMAND} -S ${SOURCE} -B ${SCRATCH} -G ${GENERATOR} -D CMAKE_CXX_COMPILER=${COMPILER}
  "-D CMAKE_CXX_FLAGS=-Wall -Wextra -Werror ${FLAGS}" -D CMAKE_PREFIX_PATH=${PREFIX}
  -D CMAKE_FIND_USE_PACKAGE_REGISTRY=OFF COMMAND_ERROR_IS_FATAL ANY)
file(STRINGS ${SCRATCH}/CMakeCache.txt found REGEX "^raedit_DIR:")
if(NOT found MATCHES "=${PREFIX}/")
  message(FATAL_ERROR "find_package found another raedit: ${found}")
endif()
execute_process(COMMAND ${CMAKE_COMMAND} --build ${SCRATCH} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${SCRATCH}/${PROGRAM} WORKING_DIRECTORY ${RUN_IN} COMMAND_ERROR_IS_FATAL ANY)

if(EXPECTED)
  file(READ ${RUN_IN}/${EXPECTED} head LIMIT 24 HEX)
  # The signature, the length and name of the IHDR chunk, then width and height: 64 x 64.
  if(NOT head STREQUAL "89504e470d0a1a0a0000000d494844520000004000000040")
    message(FATAL_ERROR "${RUN_IN}/${EXPECTED} is not a PNG of 64 x 64 pixels: ${head}")
  endif()
endif()

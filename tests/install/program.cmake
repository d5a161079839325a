# The installed program, called from somewhere else, draws with the model that was installed beside it.
unset(ENV{RAEDIT_MODEL_PATH})
file(REMOVE_RECURSE ${SCRATCH})
file(MAKE_DIRECTORY ${SCRATCH})
execute_process(COMMAND ${PREFIX}/bin/raedit generate --label cat-face --steps 2 --output ${SCRATCH}/cat.png --json
  WORKING_DIRECTORY ${SCRATCH} OUTPUT_VARIABLE json COMMAND_ERROR_IS_FATAL ANY)
string(JSON model GET "${json}" model)
if(NOT model STREQUAL "${MODELS}/emoji64")
  message(FATAL_ERROR "the installed program took the model from ${model}, not from ${MODELS}")
endif()
if(NOT EXISTS ${SCRATCH}/cat.png)
  message(FATAL_ERROR "no picture was written")
endif()

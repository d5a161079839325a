# libraedit.so shows its public API and nothing else: no symbol of another library, none of the rooms behind the API.
execute_process(COMMAND ${NM} --dynamic --defined-only --demangle --format=posix ${LIBRARY}
  OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE ";" "," symbols "${symbols}")
string(REPLACE "\n" ";" symbols "${symbols}")

set(count 0)
foreach(symbol IN LISTS symbols)
  if(symbol STREQUAL "" OR symbol MATCHES "^__(asan|ubsan|odr_asan)")
    continue()
  endif()
  math(EXPR count "${count} + 1")
  # What is before the first parenthesis holds the name; a template's result type may stand before it.
  string(REGEX REPLACE "\\(.*" "" name "${symbol}")
  if(NOT name MATCHES "(^|[ >&*])(typeinfo for |typeinfo name for |vtable for )?raedit::")
    list(APPEND foreign "${symbol}")
  elseif(name MATCHES "raedit::(ops|nn|backend|io|hub|convert|train|models|diffusion|pipeline|cli|detail|\\(anonymous)::")
    list(APPEND inner "${symbol}")
  endif()
endforeach()

if(count LESS 50)
  message(FATAL_ERROR "only ${count} symbols in ${LIBRARY}: the API is missing")
endif()
if(foreign OR inner)
  list(JOIN foreign "\n  " foreign)
  list(JOIN inner "\n  " inner)
  message(FATAL_ERROR "symbols that are not ours:\n  ${foreign}\nsymbols that are not public:\n  ${inner}")
endif()
# Without its type information a program could not catch what the library throws.
if(NOT symbols MATCHES "typeinfo for raedit::Error ")
  message(FATAL_ERROR "typeinfo for raedit::Error is not exported")
endif()

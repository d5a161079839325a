# raedit_room(NAME [SOURCES ...] [DEPENDS rooms ...] [LIBRARIES targets ...])
#
# One room of the house: a static library raedit_<NAME> that sees the public headers, src/, and what it DEPENDS on.
# Beside it a module raedit_<NAME>_layering holds the whole room and links only what it may use, with no undefined
# symbols allowed: a call in the wrong direction does not link.
function(raedit_room name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LIBRARIES" ${ARGN})
  set(room raedit_${name})
  add_library(${room} STATIC ${ARG_SOURCES})
  target_include_directories(${room} PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  list(TRANSFORM ARG_DEPENDS PREPEND raedit_ OUTPUT_VARIABLE rooms)
  target_link_libraries(${room} PUBLIC ${rooms} ${ARG_LIBRARIES})

  if(NOT RAEDIT_SANITIZE)  # the sanitizers' runtime is only in the program, which --no-undefined would refuse
    file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/layering.cpp CONTENT "")  # keeps its time when it is there already
    add_library(${room}_layering MODULE ${CMAKE_CURRENT_BINARY_DIR}/layering.cpp)
    target_link_libraries(${room}_layering PRIVATE
      -Wl,--whole-archive $<TARGET_FILE:${room}> -Wl,--no-whole-archive ${rooms} ${ARG_LIBRARIES})
    target_link_options(${room}_layering PRIVATE -Wl,--no-undefined)
    add_dependencies(${room}_layering ${room})
    set_target_properties(${room}_layering PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/layering)
  endif()
endfunction()

# libraedit: all rooms in one shared library with the public API alone visible, and its CMake package.
#   find_package(raedit REQUIRED)
#   target_link_libraries(app PRIVATE raedit::raedit)
include(CMakePackageConfigHelpers)

file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/raedit_library.cpp CONTENT "")  # keeps its time when it is there already
add_library(raedit SHARED ${CMAKE_BINARY_DIR}/raedit_library.cpp)
add_library(raedit::raedit ALIAS raedit)
set(RAEDIT_ROOMS core tensor io data dist hub backend_cpu backend_counting device ops nn models diffusion pipeline convert train)
foreach(room ${RAEDIT_ROOMS})
  target_link_libraries(raedit PRIVATE -Wl,--whole-archive $<TARGET_FILE:raedit_${room}> -Wl,--no-whole-archive)
  add_dependencies(raedit raedit_${room})
endforeach()
target_link_libraries(raedit PRIVATE raedit_convert raedit_train)
target_link_options(raedit PRIVATE -Wl,--version-script=${CMAKE_CURRENT_LIST_DIR}/libraedit.map)
set_property(TARGET raedit APPEND PROPERTY LINK_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/libraedit.map)
target_include_directories(raedit PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                         $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(raedit PUBLIC cxx_std_20)
set_target_properties(raedit PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})

install(TARGETS raedit EXPORT raedit LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/raedit DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY models/emoji64 DESTINATION ${CMAKE_INSTALL_DATADIR}/raedit/models)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/raedit)
install(EXPORT raedit NAMESPACE raedit:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/raedit FILE raedit-config.cmake)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/raedit-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/raedit-config-version.cmake DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/raedit)

# cmake --install, then find_package(quire) and target_link_libraries(... quire::quire).
# The component "python" is the wheel's, and nobody else's (bindings/CMakeLists.txt).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The public headers are quire.h and what it includes, directly or not: whoever includes it needs them
# all, and every other one is the library's own affair.
set(public_headers)
set(to_read quire/quire.h)
while(to_read)
  list(POP_FRONT to_read header)
  if(NOT header IN_LIST public_headers)
    list(APPEND public_headers ${header})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/${header})
    file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/${header} includes REGEX "^#include \"quire/")
    list(TRANSFORM includes REPLACE "^#include \"(.*)\".*" "\\1")
    list(APPEND to_read ${includes})
  endif()
endwhile()
foreach(header ${public_headers})
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES ${CMAKE_CURRENT_LIST_DIR}/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/${folder})
endforeach()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/quire)
write_basic_package_version_file(quireConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(TARGETS quire quire_task quire_base quire_format quire_kv quire_io quire_ops quire_cpu quire_paged
                quire_model quire_engine
        EXPORT quireTargets INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT quireTargets NAMESPACE quire:: DESTINATION ${package})
install(FILES ${CMAKE_CURRENT_LIST_DIR}/quireConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/quireConfigVersion.cmake DESTINATION ${package})
install(FILES ${CMAKE_CURRENT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

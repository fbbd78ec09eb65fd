# install(): the library with its headers and package files, the program, and the tool for other libraries' checkpoints.

include(CMakePackageConfigHelpers)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/shardmix)

install(TARGETS shardmix EXPORT shardmix-targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS shardmix_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(PROGRAMS launch/shardmix-export DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY launch/shardmix_export DESTINATION ${CMAKE_INSTALL_DATADIR}/shardmix FILES_MATCHING PATTERN *.py)
install(DIRECTORY include/shardmix DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT shardmix-targets NAMESPACE shardmix:: DESTINATION ${package_folder})

configure_package_config_file(cmake/shardmix-config.cmake.in shardmix-config.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(shardmix-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/shardmix-config.cmake ${PROJECT_BINARY_DIR}/shardmix-config-version.cmake
              cmake/FindNCCL.cmake
        DESTINATION ${package_folder})

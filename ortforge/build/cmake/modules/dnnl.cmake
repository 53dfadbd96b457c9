# oneDNN from the system, in place of the module of the same name that clones and builds it.
# Sets what ORT's CMake files read of that one: DNNL_INCLUDE_DIR, DNNL_LIB_DIR, DNNL_DLL_PATH, the target project_dnnl.
find_package(dnnl REQUIRED CONFIG)
get_target_property(DNNL_INCLUDE_DIR DNNL::dnnl INTERFACE_INCLUDE_DIRECTORIES)
get_target_property(_dnnl_library DNNL::dnnl LOCATION)
get_filename_component(DNNL_LIB_DIR "${_dnnl_library}" DIRECTORY)
# What ORT copies beside its Python module. Programs ask the loader for its SONAME, which distributions choose.
set(DNNL_DLL_PATH "${_dnnl_library}")
add_custom_target(project_dnnl)
link_directories("${DNNL_LIB_DIR}")

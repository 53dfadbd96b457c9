# CUTLASS from the image, in place of the module of the same name that downloads it. Sets cutlass_SOURCE_DIR, where ORT's
# CMake files look for its headers, for those of its tools and for those of its examples.
set(ORTFORGE_CUTLASS "/opt/nvidia/cutlass_library/source" CACHE PATH "Source of CUTLASS, with its examples")
set(cutlass_SOURCE_DIR "${ORTFORGE_CUTLASS}")
if(NOT EXISTS "${cutlass_SOURCE_DIR}/include/cutlass/cutlass.h")
  message(FATAL_ERROR "There is no CUTLASS in ${cutlass_SOURCE_DIR}: the image has to bring it.")
endif()
include(ortforge_compare)
ortforge_compare(cutlass "${cutlass_SOURCE_DIR}/include/cutlass/version.h" CUTLASS_)

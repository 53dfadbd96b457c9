# Lets ONNX Runtime be built against a distribution's own packages, without a change to its CMake files.
#
# Given as CMAKE_PROJECT_TOP_LEVEL_INCLUDES. Most of ORT's dependencies are found by CMake's own
# FETCHCONTENT_TRY_FIND_PACKAGE_MODE=ALWAYS; the provider below answers for those whose package has another name,
# no CMake files, or settings that ORT's build needs.
cmake_minimum_required(VERSION 3.24)

# ORT looks for modules such as dnnl.cmake here first, and then in its own folder.
list(PREPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}/modules")

set(ORTFORGE_ONNX_SOURCE "/usr/src/onnx" CACHE PATH "Source of ONNX, to be built as ORT builds its own copy")

# Eigen 3.4.0 has the propagation of NaN in reductions only. Eigen includes this file in its class of arrays.
add_compile_definitions("$<$<COMPILE_LANGUAGE:CXX>:EIGEN_ARRAYBASE_PLUGIN=\"${CMAKE_CURRENT_LIST_DIR}/eigen_nan.inc\">")

# What all C++ files have to agree upon, those of dependencies included: the ABI of the standard library, say.
set(ORTFORGE_DEFINITIONS "" CACHE STRING "Definitions for all C++ files, separated by semicolons")
foreach(_ortforge_definition IN LISTS ORTFORGE_DEFINITIONS)
  add_compile_definitions("$<$<COMPILE_LANGUAGE:CXX>:${_ortforge_definition}>")
endforeach()

# A distribution's libonnx registers its schemas when it is loaded, and ORT registers them again: hundreds of lines on
# stderr. Built here, as ORT does it with its own copy, it is static and registers nothing. It lies where a minimal build,
# which asks no provider, looks for it, too.
set(ORTFORGE_ONNX "${CMAKE_BINARY_DIR}/_deps/onnx-src")
if(NOT EXISTS "${ORTFORGE_ONNX}/ortforge.ready")
  if(NOT EXISTS "${ORTFORGE_ONNX_SOURCE}/CMakeLists.txt")
    message(FATAL_ERROR "There is no source of ONNX in ${ORTFORGE_ONNX_SOURCE}: the image has to bring it.")
  endif()
  file(REMOVE_RECURSE "${ORTFORGE_ONNX}")
  file(COPY "${ORTFORGE_ONNX_SOURCE}/" DESTINATION "${ORTFORGE_ONNX}")
  execute_process(
    COMMAND patch --binary --ignore-whitespace --batch --forward -p1
            -i "${CMAKE_SOURCE_DIR}/patches/onnx/onnx.patch"
    WORKING_DIRECTORY "${ORTFORGE_ONNX}"
    COMMAND_ERROR_IS_FATAL ANY)
  file(TOUCH "${ORTFORGE_ONNX}/ortforge.ready")
endif()

# A library without CMake files, as a target. Its headers are among the system's own.
function(ortforge_import target library)
  find_library(ORTFORGE_${library} "${library}" REQUIRED)
  add_library(${target} SHARED IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES IMPORTED_LOCATION "${ORTFORGE_${library}}")
endfunction()

macro(ortforge_provide method name)
  string(TOLOWER "${name}" _ortforge_name)
  if(_ortforge_name STREQUAL "re2")
    find_package(PkgConfig REQUIRED)
    pkg_check_modules(ORTFORGE_RE2 REQUIRED IMPORTED_TARGET GLOBAL re2)
    if(NOT TARGET re2::re2)
      add_library(re2::re2 ALIAS PkgConfig::ORTFORGE_RE2)
    endif()
    FetchContent_SetPopulated(re2)
  elseif(_ortforge_name STREQUAL "utf8_range")
    # Part of protobuf in distributions; nothing of ORT names it.
    FetchContent_SetPopulated(utf8_range)
  elseif(_ortforge_name STREQUAL "protobuf")
    # The static library of distributions is not position independent, so it cannot become part of a Python module.
    set(Protobuf_USE_STATIC_LIBS OFF)
    find_package(Protobuf REQUIRED MODULE)
    FetchContent_SetPopulated(Protobuf)
  elseif(_ortforge_name STREQUAL "flatbuffers")
    find_package(FlatBuffers REQUIRED CONFIG)
    if(NOT TARGET flatbuffers::flatbuffers)
      foreach(_ortforge_target IN ITEMS flatbuffers::flatbuffers_shared flatbuffers::flatbuffers-shared)
        if(TARGET ${_ortforge_target} AND NOT TARGET flatbuffers::flatbuffers)
          add_library(flatbuffers::flatbuffers ALIAS ${_ortforge_target})
        endif()
      endforeach()
    endif()
    set(flatbuffers_FOUND TRUE)
    FetchContent_SetPopulated(flatbuffers)
  elseif(_ortforge_name STREQUAL "eigen")
    find_package(Eigen3 REQUIRED CONFIG)
    FetchContent_SetPopulated(eigen)
  elseif(_ortforge_name STREQUAL "onnx")
    add_subdirectory("${ORTFORGE_ONNX}" "${CMAKE_BINARY_DIR}/_deps/onnx-build" EXCLUDE_FROM_ALL)
    FetchContent_SetPopulated(onnx SOURCE_DIR "${ORTFORGE_ONNX}" BINARY_DIR "${CMAKE_BINARY_DIR}/_deps/onnx-build")
  elseif(_ortforge_name STREQUAL "fxdiv")
    # A header among the system's own; it is the next two that use it.
    FetchContent_SetPopulated(fxdiv)
  elseif(_ortforge_name STREQUAL "pthreadpool")
    ortforge_import(pthreadpool pthreadpool)
    FetchContent_SetPopulated(pthreadpool)
  elseif(_ortforge_name STREQUAL "googlexnnpack")
    # Distributions link the microkernels into the library, which ORT's build names apart.
    ortforge_import(XNNPACK XNNPACK)
    add_library(microkernels-prod INTERFACE IMPORTED GLOBAL)
    FetchContent_SetPopulated(googlexnnpack)
  endif()
endmacro()

cmake_language(SET_DEPENDENCY_PROVIDER ortforge_provide SUPPORTED_METHODS FETCHCONTENT_MAKEAVAILABLE_SERIAL)

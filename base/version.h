// The release this tree builds; CMakeLists.txt's project version says the same (a test compares
// them).

#ifndef TESSERA_BASE_VERSION_H_
#define TESSERA_BASE_VERSION_H_

namespace tessera {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace tessera

#endif  // TESSERA_BASE_VERSION_H_

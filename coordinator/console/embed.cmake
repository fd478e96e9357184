# cmake -DFOLDER=... -DNAMES=a,b -DOUTPUT=x.cc -P embed.cmake: writes the files of a folder, as they are, into
# a C++ source that fills ConsoleAssets() (console_assets.h).
set(types_html "text/html; charset=utf-8")
set(types_css "text/css; charset=utf-8")
set(types_js "text/javascript; charset=utf-8")

set(rows "")
string(REPLACE "," ";" names "${NAMES}")
foreach(name ${names})
  file(READ "${FOLDER}/${name}" content)
  if(content MATCHES "\\)asset\"")
    message(FATAL_ERROR "${name} holds the end of the literal it is put into")
  endif()
  string(REGEX REPLACE ".*\\." "" ending "${name}")
  string(APPEND rows "    {\"${name}\", \"${types_${ending}}\", R\"asset(${content})asset\"sv},\n")
endforeach()
file(WRITE "${OUTPUT}" "// Made by embed.cmake from the files of the console.
#include \"coordinator/console/console_assets.h\"

namespace tessera {
namespace {
using namespace std::string_view_literals;
constexpr ConsoleAsset kConsoleAssets[] = {
${rows}};
}  // namespace
absl::Span<const ConsoleAsset> ConsoleAssets() { return kConsoleAssets; }
}  // namespace tessera
")

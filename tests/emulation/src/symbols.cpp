#include "symbols.hpp"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

namespace emulation {
namespace {

/// The symbol at `address` of an ELF file, also one that the dynamic linker doesn't know; or "".
std::string symbol_at(const char* path, std::uintptr_t address) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return {};
  struct stat status {};
  fstat(file, &status);
  const auto size = static_cast<std::size_t>(status.st_size);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (mapped == MAP_FAILED) return {};
  const auto* bytes = static_cast<const char*>(mapped);
  const auto& header = *reinterpret_cast<const Elf64_Ehdr*>(bytes);
  const std::span sections(reinterpret_cast<const Elf64_Shdr*>(bytes + header.e_shoff),
                           header.e_shnum);
  std::string found;
  for (const Elf64_Shdr& section : sections) {
    if (section.sh_type != SHT_SYMTAB) continue;
    const std::span symbols(reinterpret_cast<const Elf64_Sym*>(bytes + section.sh_offset),
                            section.sh_size / sizeof(Elf64_Sym));
    for (const Elf64_Sym& symbol : symbols) {
      if (symbol.st_value == address && ELF64_ST_TYPE(symbol.st_info) == STT_FUNC)
        found = bytes + sections[section.sh_link].sh_offset + symbol.st_name;
    }
  }
  munmap(mapped, size);
  return found;
}

std::string demangled(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(
      abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), std::free);
  return status == 0 ? text.get() : name;
}

}  // namespace

std::string name_of_function(const void* function) {
  Dl_info info{};
  if (dladdr(function, &info) == 0 || info.dli_fname == nullptr) return fmt::format("{}", function);
  // A program that was found on PATH has no path as its name.
  const char* file = info.dli_fname == program_invocation_name ? "/proc/self/exe" : info.dli_fname;
  if (info.dli_saddr == function) return demangled(info.dli_sname);
  const auto offset =
      reinterpret_cast<std::uintptr_t>(function) - reinterpret_cast<std::uintptr_t>(info.dli_fbase);
  for (const std::uintptr_t address :
       {offset, reinterpret_cast<std::uintptr_t>(function)}) {  // at a free place, or a fixed one
    const std::string name = symbol_at(file, address);
    if (!name.empty()) return demangled(name);
  }
  return fmt::format("{:#x} of {}", offset, file);
}

}  // namespace emulation

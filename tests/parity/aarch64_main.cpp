// SPDX-License-Identifier: Apache-2.0
// Runs one native op function on buffers from a file, so that an emulated machine can be compared with this one.
// Request: name, buffers, relocations (buffer, offset -> buffer), arguments (number, or buffer). Answer: result, buffers.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

struct Entry {
  const char* name;
  int64_t (*call)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);
};
extern "C" {
#define X(name) void name();
#include FUNCTIONS
#undef X
}
#define X(name) {#name, reinterpret_cast<decltype(Entry::call)>(reinterpret_cast<void*>(&name))},
static const Entry kEntries[] = {
#include FUNCTIONS
};

static int64_t number(FILE* file) {
  int64_t value = 0;
  if (fread(&value, 8, 1, file) != 1) value = -1;
  return value;
}

int main(int, char** arguments) {
  FILE* in = fopen(arguments[1], "rb");
  std::vector<char> name(number(in) + 1, 0);
  if (fread(name.data(), 1, name.size() - 1, in) != name.size() - 1) return 2;
  std::vector<std::vector<int64_t>> buffers(number(in));  // int64_t: aligned for everything, a spare word behind
  std::vector<int64_t> sizes;
  for (auto& buffer : buffers) {
    sizes.push_back(number(in));
    buffer.resize(sizes.back() / 8 + 9);
    if (fread(buffer.data(), 1, sizes.back(), in) != size_t(sizes.back())) return 3;
  }
  for (int64_t left = number(in); left > 0; --left) {
    const int64_t where = number(in), offset = number(in), target = number(in);
    const int64_t* pointer = buffers[target].data();
    memcpy(reinterpret_cast<char*>(buffers[where].data()) + offset, &pointer, 8);
  }
  int64_t a[8] = {};
  const int64_t count = number(in);
  for (int64_t i = 0; i < count; ++i) {
    const bool is_buffer = number(in) != 0;
    const int64_t value = number(in);
    a[i] = is_buffer ? reinterpret_cast<int64_t>(buffers[value].data()) : value;
  }
  fclose(in);
  for (const Entry& entry : kEntries) {
    if (strcmp(entry.name, name.data()) != 0) continue;
    const int64_t result = entry.call(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
    FILE* out = fopen(arguments[2], "wb");
    fwrite(&result, 8, 1, out);
    for (size_t i = 0; i < buffers.size(); ++i) fwrite(buffers[i].data(), 1, sizes[i], out);
    return fclose(out);
  }
  return 4;
}

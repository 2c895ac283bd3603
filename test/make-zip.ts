/** Writes zip archives for tests (Python wheels are such). */
import { crc32, deflateRawSync } from 'node:zlib';

export interface ZipContent {
  readonly bytes: Buffer;
  readonly stored?: boolean;
}

/** Fields as pairs of bytes and value, little-endian. */
function fields(...pairs: readonly (readonly [2 | 4, number])[]): Buffer {
  return Buffer.concat(
    pairs.map(([size, value]) => {
      const bytes = Buffer.alloc(size);
      bytes.writeUIntLE(value, 0, size);
      return bytes;
    }),
  );
}

export function makeZip(contents: Readonly<Record<string, ZipContent>>): Buffer {
  const bodies: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const [name, { bytes, stored = false }] of Object.entries(contents)) {
    const body = stored ? bytes : deflateRawSync(bytes);
    // Method, time, date, checksum, sizes, name's length, extra's length: the same in both headers.
    const common = fields(
      [2, stored ? 0 : 8],
      [2, 0],
      [2, 0],
      [4, crc32(bytes)],
      [4, body.length],
      [4, bytes.length],
      [2, name.length],
      [2, 0],
    );
    const local = Buffer.concat([fields([4, 0x04034b50], [2, 20], [2, 0]), common, Buffer.from(name), body]);
    const rest = fields([2, 0], [2, 0], [2, 0], [4, 0], [4, offset]);
    directory.push(fields([4, 0x02014b50], [2, 20], [2, 20], [2, 0]), common, rest, Buffer.from(name));
    bodies.push(local);
    offset += local.length;
  }
  const count = bodies.length;
  const index = Buffer.concat(directory);
  const end = fields([4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, index.length], [4, offset], [2, 0]);
  return Buffer.concat([...bodies, index, end]);
}

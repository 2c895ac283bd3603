/** A file upload as `multipart/form-data` (RFC 7578), read up to a bound and taken apart by the platform's own parser. */
import type { Readable } from 'node:stream';
import { BerthError } from '../../errors.ts';

export interface Upload {
  readonly purpose: string;
  readonly filename: string;
  readonly bytes: Uint8Array;
}

/** Boundaries, headers and small fields besides the file. */
const AROUND_BYTES = 16 * 1024;

/** @throws BerthError body_too_large, invalid_request, unsupported_parameter */
export async function readUpload(body: Readable, contentType: string, mostBytes: number): Promise<Upload> {
  const form = await formOf(await readAll(body, mostBytes), contentType);
  for (const name of form.keys()) {
    if (name !== 'file' && name !== 'purpose') {
      const param = name.replace(/[^\x20-\x7e]/g, '?').slice(0, 64);
      throw new BerthError('unsupported_parameter', `The parameter \`${param}\` is not supported.`, { param });
    }
  }
  const purpose = form.get('purpose');
  const file = form.get('file');
  if (typeof purpose !== 'string')
    throw new BerthError('invalid_request', '`purpose` is required.', { param: 'purpose' });
  if (file === null || typeof file === 'string') {
    throw new BerthError('invalid_request', '`file` must be a file with a name.', { param: 'file' });
  }
  if (file.size > mostBytes) throw tooLarge(mostBytes);
  return { purpose, filename: file.name, bytes: await file.bytes() };
}

const tooLarge = (mostBytes: number): BerthError =>
  new BerthError('body_too_large', `A file may have ${mostBytes} bytes.`, { param: 'file' });

async function readAll(body: Readable, mostBytes: number): Promise<Buffer<ArrayBuffer>> {
  const chunks: Buffer[] = [];
  let total = 0;
  // The stream must outlive a refusal, or its sender never sees the answer.
  for await (const chunk of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    total += chunk.length;
    if (total > mostBytes + AROUND_BYTES) throw tooLarge(mostBytes);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function formOf(bytes: Buffer<ArrayBuffer>, contentType: string): Promise<FormData> {
  try {
    return await new Response(bytes, { headers: { 'content-type': contentType } }).formData();
  } catch (error) {
    // The parser's own words may quote the body.
    throw new BerthError('invalid_request', 'The body is not valid multipart/form-data.', { cause: error });
  }
}

/** `berth load` and `berth stop`. */
import type { ModelActionResponse } from '../../gateway/admin-types.ts';
import { adminClient, PATIENT_MS } from '../client.ts';
import type { NodeOptions } from '../client.ts';
import type { Io } from '../io.ts';
import { humanBytes, json } from '../output.ts';

export async function load(io: Io, name: string, options: NodeOptions): Promise<void> {
  const answer = await act(io, name, 'load', {}, options);
  const { id, chargedBytes } = answer.model;
  io.out(options.json === true ? json(answer.model) : `${id} is loaded and holds ${humanBytes(chargedBytes)}.\n`);
}

export async function stop(io: Io, name: string, options: NodeOptions & { readonly force?: boolean }): Promise<void> {
  const answer = await act(io, name, 'stop', { force: options.force === true }, options);
  io.out(options.json === true ? json(answer.model) : `${answer.model.id} is off the device.\n`);
}

async function act(
  io: Io,
  name: string,
  verb: string,
  body: object,
  options: NodeOptions,
): Promise<ModelActionResponse> {
  const path = `/api/admin/models/${encodeURIComponent(name)}/${verb}`;
  return (await adminClient(options, io.env).json(path, { body, deadlineMs: PATIENT_MS })) as ModelActionResponse;
}

/** `berth why`: the decisions that brought a model or a request to where it is, and the numbers that were compared. */
import type { Because } from '../../core/actions.ts';
import { asBerthError, BerthError } from '../../errors.ts';
import type { DecisionView, StatusResponse, WhyResponse } from '../../gateway/admin-types.ts';
import { adminClient } from '../client.ts';
import type { NodeOptions } from '../client.ts';
import type { Io } from '../io.ts';
import { humanAgo, humanBytes, humanDuration, json, table } from '../output.ts';

export interface WhyOptions extends NodeOptions {
  readonly last?: string;
}

export async function why(io: Io, name: string, options: WhyOptions): Promise<void> {
  const last = options.last === undefined ? null : Number(options.last);
  if (last !== null && !(Number.isSafeInteger(last) && last > 0)) {
    throw new BerthError('invalid_request', `--last: expected a whole number above 0, received ${options.last}`);
  }
  const client = adminClient(options, io.env);
  const [{ decisions: all }, status] = (await Promise.all([
    client.json(`/api/admin/why/${encodeURIComponent(name)}`).catch((error: unknown) => {
      throw asBerthError(error).code === 'not_found' ? unknown(name) : error;
    }),
    client.json('/api/admin/status'),
  ])) as [WhyResponse, StatusResponse];
  const decisions = last === null ? all : all.slice(-last);
  if (options.json === true) return io.out(json(decisions));
  if (decisions.length === 0) return io.out(`Nothing has been decided about ${name} yet.\n`);
  const columns: readonly (readonly [header: string, cell: (decision: DecisionView) => string | null])[] = [
    ['WHEN', ({ at }) => humanAgo(Math.max(0, status.uptimeMicros - at))],
    ['DECISION', ({ action }) => words(action)],
    ['MODEL', ({ model }) => model],
    ['REQUEST', ({ request }) => request],
    ['DEVICE', ({ device }) => device ?? null],
    ['BECAUSE', ({ because }) => sentence(because)],
  ];
  // A column that says in each line what was asked for, or nothing, only pushes the reasons off the screen.
  const shown = columns.filter(([, cell]) => decisions.some((one) => ![name, null].includes(cell(one))));
  const rows = decisions.map((decision) => shown.map(([, cell]) => cell(decision) ?? '-'));
  io.out(table({ headers: shown.map(([header]) => header), rows, styled: io.stdoutIsTty }));
}

/** The node's own answer speaks of paths. */
const unknown = (name: string): BerthError =>
  new BerthError(
    'model_not_found',
    `no model is called ${name}, and no request of late (its id is in \`x-request-id\`)`,
  );

/** `ensureUnloaded` → “ensure unloaded”, `minimum-stay` → “minimum stay”. */
const words = (name: string): string =>
  name
    .replace(/[-_.]+/g, ' ')
    .replace(/([a-z\d])([A-Z])/g, '$1 $2')
    .toLowerCase();

/** The rule in words, then what it compared, each number in the unit that its name ends with. */
export function sentence({ rule, ...compared }: Because): string {
  const facts = Object.entries(compared).map(([name, value]) => fact(name, value));
  return facts.length === 0 ? words(rule) : `${words(rule)}: ${facts.join(', ')}`;
}

function fact(name: string, value: string | number | boolean): string {
  if (typeof value !== 'number')
    return value === true ? words(name) : value === false ? `not ${words(name)}` : `${words(name)} ${value}`;
  const micros = /^(.+)Micros$/.exec(name);
  // -1 stands for ever; what is further below zero is overdue by so much.
  if (micros?.[1] !== undefined)
    return `${words(micros[1])} ${value < -1 ? `-${humanDuration(-value)}` : humanDuration(value)}`;
  const bytes = /^(.+)Bytes$/.exec(name);
  if (bytes?.[1] !== undefined) return `${words(bytes[1])} ${value < 0 ? `-${humanBytes(-value)}` : humanBytes(value)}`;
  const tokens = /^(.+)Tokens$/.exec(name);
  if (tokens?.[1] !== undefined) return `${words(tokens[1])} ${value} tokens`;
  return `${words(name)} ${Number.isInteger(value) ? value : Number(value.toPrecision(3))}`;
}

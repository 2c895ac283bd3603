/** The programs of engines that Berth starts: where they are, and what of the node's environment they may know. */
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { BerthError } from '../errors.ts';
import type { ModelLaunch } from './engine.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

export interface Program {
  /** As it is called on the PATH. */
  readonly name: string;
  /** The variable that names another. */
  readonly variable: string;
  /** What to do where it is not there, as a sentence. */
  readonly advice: string;
}

/** The program's path. Throws `engine_mismatch` that says how to get it. */
export function findProgram({ name, variable, advice }: Program, env: Environment): string {
  const named = env[variable];
  if (named !== undefined && named !== '') {
    if (mayRun(named)) return named;
    throw new BerthError('engine_mismatch', `${variable} is ${named}, but there is no program that may be run.`);
  }
  const found = (env['PATH'] ?? '')
    .split(delimiter)
    .filter((folder) => folder !== '')
    .map((folder) => join(folder, name))
    .find(mayRun);
  if (found !== undefined) return found;
  throw new BerthError('engine_mismatch', `${name} is not on the PATH. ${advice}`);
}

function mayRun(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** What every child may know: where things are and how text is written. Nothing secret, no proxies. */
const COMMON =
  /^(PATH|HOME|LANG|LC_\w+|LD_LIBRARY_PATH|TMPDIR|TZ|CUDA_\w+|NVIDIA_\w+|NCCL_\w+|HIP_\w+|ROCR_\w+|OMP_\w+|KMP_\w+)$/;

/** The variables that every child may know, and those that `own` names but `ours` does not. */
export function childEnvironment(env: Environment, own: RegExp, ours: RegExp): Record<string, string> {
  return passOn(env, (name) => (COMMON.test(name) || own.test(name)) && !ours.test(name));
}

/** The variables that are set and may be known. */
export function passOn(env: Environment, mayKnow: (name: string) => boolean): Record<string, string> {
  const passed: Record<string, string> = {};
  for (const [name, value] of Object.entries(env)) if (value !== undefined && mayKnow(name)) passed[name] = value;
  return passed;
}

/** The model's own arguments. Throws `model_load_failed` for those that are Berth's to make. */
export function ownArgs(launch: ModelLaunch, ours: RegExp): readonly string[] {
  const args = launch.args ?? [];
  const clash = args.find((arg) => ours.test(arg));
  if (clash === undefined) return args;
  throw new BerthError(
    'model_load_failed',
    `The model’s \`args\` hold ${clash.split('=')[0]}, which Berth sets itself: take it out.`,
  );
}

/** Whether a model's own arguments name this option, as `--name value` or `--name=value`. */
export const hasOption = (args: readonly string[], name: string): boolean =>
  args.some((arg) => arg === name || arg.startsWith(`${name}=`));

/** Many conversations at once: each turn becomes due a while after the answer before it, and a few are in flight. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Answer } from './client.ts';
import type { Style } from './conversation.ts';
import { beginConversation } from './conversation.ts';
import type { Random } from './random.ts';

export interface Dialogue {
  readonly model: string;
  readonly style: Style;
  readonly system: string;
  readonly turns: readonly {
    readonly user: string;
    readonly answerTokens: number;
    /** Since the answer before; the first one's since the start. */
    readonly thinkMillis: number;
  }[];
}

export interface DialogueShape {
  readonly dialogues: number;
  readonly turns: number;
  /** Words, which are about as many tokens. */
  readonly systemWords: number;
  readonly userWords: readonly [least: number, most: number];
  readonly answerTokens: readonly [least: number, most: number];
  /** Exponential; the first turn of each comes within this time, evenly. */
  readonly thinkMillis: number;
}

/** Evenly over the models. All conversations of a model begin with the same system prompt. */
export function planDialogues(
  models: readonly { readonly id: string; readonly style: Style }[],
  shape: DialogueShape,
  random: Random,
): Dialogue[] {
  const systems = models.map(() => random.words(shape.systemWords));
  return Array.from({ length: shape.dialogues }, (_, index) => {
    const which = index % models.length;
    const { id, style } = models[which] as (typeof models)[number];
    const turns = Array.from({ length: shape.turns }, (_, turn) => ({
      user: random.words(random.between(...shape.userWords)),
      answerTokens: random.between(...shape.answerTokens),
      thinkMillis: turn === 0 ? random.next() * shape.thinkMillis : random.exponential(shape.thinkMillis),
    }));
    return { model: id, style, system: systems[which] as string, turns };
  });
}

export interface Turn {
  /** 0: the conversation's first. */
  readonly turn: number;
  readonly answer: Answer;
  /** Prompt tokens that repeat the conversation's own earlier turns, or the system prompt that another one had before. */
  readonly repeatedTokens: number;
}

export interface Played {
  /** In the order of their ends. */
  readonly turns: readonly Turn[];
  readonly failed: readonly string[];
  /** Turns that had not ended, or not begun, when time was up. */
  readonly cutOff: number;
  readonly seconds: number;
}

export interface PlayOptions {
  readonly url: string;
  readonly inFlight: number;
  readonly seconds: number;
  /** Tokens of a model's system prompt. */
  readonly systemTokens: ReadonlyMap<string, number>;
}

export async function play(dialogues: readonly Dialogue[], options: PlayOptions): Promise<Played> {
  const ending = new AbortController();
  const { signal } = ending;
  const places = createPlaces(options.inFlight);
  const turns: Turn[] = [];
  const failed: string[] = [];
  const known = new Set<string>();

  const converse = async ({ model, style, system, turns: planned }: Dialogue): Promise<void> => {
    const conversation = beginConversation(model, style, system);
    let earlier = 0;
    for (const [turn, { user, answerTokens, thinkMillis }] of planned.entries()) {
      await pause(thinkMillis, undefined, { signal });
      await places.take();
      let answer: Answer;
      const isFirst = !known.has(model);
      known.add(model);
      try {
        signal.throwIfAborted();
        answer = await conversation.turn(options.url, user, answerTokens, { signal });
      } finally {
        places.free();
      }
      signal.throwIfAborted();
      if (answer.error !== null) {
        failed.push(answer.error);
        return;
      }
      const repeated = turn > 0 ? earlier : isFirst ? 0 : (options.systemTokens.get(model) ?? 0);
      turns.push({ turn, answer, repeatedTokens: Math.min(repeated, answer.promptTokens - 1) });
      earlier = answer.promptTokens + answer.outputTokens;
    }
  };

  const started = performance.now();
  const timer = setTimeout(() => ending.abort(), options.seconds * 1000);
  const all = dialogues.map(async (dialogue) => {
    try {
      await converse(dialogue);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  });
  await Promise.all(all);
  clearTimeout(timer);
  const planned = dialogues.reduce((sum, dialogue) => sum + dialogue.turns.length, 0);
  const seconds = (performance.now() - started) / 1000;
  return { turns, failed, cutOff: signal.aborted ? planned - turns.length - failed.length : 0, seconds };
}

/** First come, first served. */
function createPlaces(count: number): { take(): Promise<void>; free(): void } {
  const waiting: (() => void)[] = [];
  let left = count;
  return {
    async take() {
      if (left > 0) left--;
      else await new Promise<void>((resolve) => waiting.push(resolve));
    },
    free() {
      const next = waiting.shift();
      if (next === undefined) left++;
      else next();
    },
  };
}

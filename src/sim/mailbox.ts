/**
 * The way from an engine to its node, on which a message may take its time. They arrive in the order in which they were sent, and all of
 * them before the end of the engine that sent them.
 */
import type { CoreEvent } from '../core/events.ts';
import type { Micros, RequestId } from '../core/ids.ts';
import type { Timeline } from './timeline.ts';

export interface MailboxWiring {
  readonly timeline: Timeline;
  /** Asked for each message: how long it takes at least. */
  readonly delay: () => Micros;
  /** It has arrived. */
  readonly hear: (event: CoreEvent) => void;
}

export class Mailbox {
  readonly #wiring: MailboxWiring;
  #lastAt: Micros = 0;
  #underWay: CoreEvent[] = [];

  constructor(wiring: MailboxWiring) {
    this.#wiring = wiring;
  }

  say(event: CoreEvent): void {
    const { timeline, delay, hear } = this.#wiring;
    this.#underWay.push(event);
    this.#lastAt = Math.max(this.#lastAt, timeline.now + delay());
    timeline.at(this.#lastAt, () => {
      const place = this.#underWay.indexOf(event);
      if (place < 0) return;
      this.#underWay.splice(place, 1);
      hear(event);
    });
  }

  /** All that is under way arrives now. */
  flush(): void {
    for (const event of this.#underWay.splice(0)) this.#wiring.hear(event);
  }

  /** Nothing more is heard of the request, not even what is under way. */
  forget(id: RequestId): void {
    this.#underWay = this.#underWay.filter((event) => !('requestId' in event) || event.requestId !== id);
  }
}

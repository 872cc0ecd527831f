import { enter } from '../cluster/node.ts';
import { network } from '../cluster/place.ts';
import { run } from '../cluster/run.ts';
import { cluster } from '../cluster/up.ts';

/**
 * A computer of its own (a network namespace) whose only way out is to the API server: what it reaches of the cluster, it
 * reaches through lpk. There is no default route, so nothing it tries leaves this machine.
 */
export class Laptop {
  readonly #name: string;

  private constructor(name: string) {
    this.#name = name;
  }

  /** Needs root, as the cluster does. */
  static async make(): Promise<Laptop> {
    const { pid } = cluster();
    const name = `lpk-laptop-${process.pid}`;
    const [here, there] = [`lt${process.pid}`, `nt${process.pid}`];
    const laptop = new Laptop(name);
    await run('ip', ['netns', 'add', name]);
    try {
      await run('ip', [
        'link',
        'add',
        here,
        'netns',
        name,
        'type',
        'veth',
        'peer',
        'name',
        there,
        'netns',
        String(pid),
      ]);
      const lines = [`addr add 198.19.2.2/30 dev ${here}`, `link set ${here} up`, 'link set lo up'];
      lines.push(`route add ${network.node}/32 via 198.19.2.1`);
      await run('ip', ['-n', name, '-batch', '-'], { input: `${lines.join('\n')}\n` });
      const within = [`addr add 198.19.2.1/30 dev ${there}`, `link set ${there} up`];
      await run('nsenter', [...enter(pid), 'ip', '-batch', '-'], { input: `${within.join('\n')}\n` });
    } catch (error) {
      await laptop.remove();
      throw error;
    }
    return laptop;
  }

  /** Its file, for a container that shares it. */
  get networkNamespace(): string {
    return `/run/netns/${this.#name}`;
  }

  /** The command line that runs `command` on this laptop. */
  on(command: string[]): string[] {
    return ['ip', 'netns', 'exec', this.#name, ...command];
  }

  /** Its only way out is gone, as without Wi-Fi. */
  async cut(): Promise<void> {
    await run('ip', ['-n', this.#name, 'link', 'set', `lt${process.pid}`, 'down']);
  }

  async mend(): Promise<void> {
    const lines = [`link set lt${process.pid} up`, `route add ${network.node}/32 via 198.19.2.1`];
    await run('ip', ['-n', this.#name, '-batch', '-'], { input: `${lines.join('\n')}\n` });
  }

  /** Its links go with it, on the node's side too. */
  async remove(): Promise<void> {
    await run('ip', ['netns', 'del', this.#name]);
  }
}

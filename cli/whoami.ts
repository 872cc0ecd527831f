import { hostname, userInfo } from 'node:os';

/** Who holds a session, for others to read, and for `lpk restore --all` to know its own. */
export type Person = { owner: string; host: string };

export function whoAmI(): Person {
  return { owner: userName(), host: hostname() };
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    // A user id without an account, as in many containers.
    return process.env.USER || `uid-${process.getuid?.() ?? '?'}`;
  }
}

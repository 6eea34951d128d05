/** A value that JSON can hold. */
export type Json = string | number | boolean | null | Json[] | { [key: string]: Json | undefined };

/**
 * A task: what a file of the task directory exports. What it returns is stored as the job's result; what it throws fails
 * the attempt. For a payload that is an array it may return an array of promises, one for each element: the job is tried
 * again with those that were rejected.
 */
export type Task<Payload = unknown, Result = unknown> = (payload: Payload, helpers: JobHelpers) => Result | Promise<Result>;

/** What a task is given besides its payload; the same as in Graphile Worker, and progress. */
export interface JobHelpers {
  /** The job. */
  readonly job: Job;
  /** Writes to the job's log. */
  readonly logger: Logger;
  /** Fires when the attempt must stop: the job was cancelled, its timeout is over, or the worker stops. */
  readonly abortSignal: AbortSignal;
  /** Rejects when abortSignal fires. */
  readonly abortPromise: Promise<never>;
  /** Lends a client of the package pg, which your project must have; not in a transaction. */
  readonly withPgClient: WithPgClient;
  /** Runs a statement with the package pg, which your project must have. */
  query<Row = any>(text: string, values?: unknown[]): Promise<QueryResult<Row>>;
  /** Adds a job, at once: not in a transaction of yours. */
  addJob(identifier: string, payload?: unknown, spec?: TaskSpec): Promise<Job>;
  /** Adds many jobs, all or none. */
  addJobs(specs: AddJobsSpec[], jobKeyPreserveRunAt?: boolean): Promise<Job[]>;
  /** The name of a queue; by default the job's, null if it is in none. */
  getQueueName(queueId?: number | null): Promise<string> | string | null;
  /** The trace that the attempt belongs to (W3C traceparent). Jobs that the task adds are in it, too. */
  readonly traceparent: string | undefined;
  /** Says how far the attempt is. It never rejects. */
  progress(percent: number, message?: string): Promise<void>;
  /** @deprecated use logger.debug */
  debug(format: string, ...parameters: unknown[]): void;
}

export interface Job {
  /** Text, because it may be beyond what a number holds. */
  id: string;
  job_queue_id: number | null;
  task_id: number;
  payload: unknown;
  priority: number;
  run_at: Date;
  /** The running attempt is counted. */
  attempts: number;
  max_attempts: number;
  last_error: string | null;
  created_at: Date;
  updated_at: Date;
  key: string | null;
  locked_at: Date | null;
  locked_by: string | null;
  revision: number;
  flags: { [flag: string]: true } | null;
  is_available: boolean;
  task_identifier: string;
}

/** How a job is added. What is not given is as in SQL: now, 25 attempts, priority 0. */
export interface TaskSpec {
  queueName?: string;
  runAt?: Date;
  maxAttempts?: number;
  jobKey?: string;
  jobKeyMode?: "replace" | "preserve_run_at" | "unsafe_dedupe";
  /** Lower is more urgent. */
  priority?: number;
  flags?: string[];
  /** Gets an event (pg_notify) when the job has ended. */
  notifyChannel?: string;
  /** See options in docs/sql-api.md. */
  options?: { [key: string]: Json | undefined };
}

export interface AddJobsSpec extends Omit<TaskSpec, "jobKeyMode" | "notifyChannel"> {
  identifier: string;
  payload?: unknown;
}

export interface Logger {
  error(message: string, meta?: object): void;
  warn(message: string, meta?: object): void;
  info(message: string, meta?: object): void;
  debug(message: string, meta?: object): void;
  /** A logger that adds these to every line. */
  scope(more: { [key: string]: unknown }): Logger;
}

/** What is used of a client, or pool, of the package pg. */
export interface PgClient {
  query(text: string, values?: any[]): Promise<{ rows: any[] }>;
}

export interface QueryResult<Row> {
  rows: Row[];
  rowCount: number | null;
}

export interface WithPgClient {
  <T>(callback: (client: PgClient) => Promise<T>): Promise<T>;
  /** Tries again when the server was not there, or another transaction was in the way. */
  withRetries<T>(callback: (client: PgClient) => Promise<T>): Promise<T>;
}

export interface Options {
  /** Where Offstage is installed. Default: offstage. */
  schema?: string;
}

/** Adds a job in the transaction that client is in: it exists when, and if, that commits. */
export function addJob(client: PgClient, identifier: string, payload?: unknown, spec?: TaskSpec, options?: Options): Promise<Job>;

/** Adds many jobs, all or none, in the transaction that client is in. */
export function addJobs(client: PgClient, specs: AddJobsSpec[], options?: Options & { jobKeyPreserveRunAt?: boolean }): Promise<Job[]>;

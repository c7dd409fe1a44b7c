-- publish: absent -> available
-- schedule: absent -> scheduled
-- hold: absent, scheduled, stalled, finished -> waiting
-- postpone: scheduled, waiting, available -> scheduled
-- park: available -> waiting
-- release: waiting -> available
-- purge: finished -> absent
-- with: limits, lines, retention, watching
-- args: (id, digest, spec, data)*
-- replies: the sum of 1 where the queue held nothing, to be entered in the list of queues, and 2 where more is over
-- and to be settled; then of each item the record; or {id, record} of the holder of its unique name; or {why, state, detail}

local SPECS, BLANK = {}, {struct.unpack(FULL_FORMAT, string.rep('\0', BLANK_SIZE))}
local MOST = T.number_setting('max_payload', 1048576)

local function given(value, name, default, scale)
  if value == value then return value end
  return T.number_setting(name, default) * (scale or 1)
end

local function read_spec(raw)
  local priority, delay, run_at, expires_in, keep, max_attempts, passing, conflict, key, unique, home, backoff =
    struct.unpack(SPEC_FORMAT, raw)
  max_attempts = given(max_attempts, 'max_attempts', 1)
  if backoff == '' then backoff = T.setting('backoff') or '' end
  return {
    priority = given(priority, 'priority', 0),
    delay = delay,
    run_at = run_at,
    expires_in = given(expires_in, 'expires_in', math.huge, 1000),
    keep = given(keep, 'keep', 3600),
    max_attempts = max_attempts > COUNT_LIMIT and 0 or max_attempts,
    passing = passing,
    conflict = conflict,
    key = key,
    unique = unique,
    home = home,
    backoff = backoff == '-' and '' or backoff,
  }
end

local function starts_at_once(spec) return spec.delay <= 0 and spec.run_at <= T.wall end

local function plan(job, spec)
  job[UNTIL], job[DATED] = 0, 0
  if spec.delay > 0 then job[UNTIL] = T.now + spec.delay end
  if spec.run_at > T.wall then job[UNTIL], job[DATED] = spec.run_at, 1 end
end

local function draft(id, digest, spec)
  local job = {unpack(BLANK)}
  T.jobs[id] = job
  job[PRIORITY], job[ORDER] = spec.priority, T.draw_order(spec.priority == math.huge)
  job[KEEP], job[MAX_ATTEMPTS], job[PASSING] = spec.keep, spec.max_attempts, spec.passing
  job[KEY], job[UNIQUE], job[HOME], job[BACKOFF] = spec.key, spec.unique, spec.home, spec.backoff
  job[DIGEST], job[PUBLISHED_AT] = digest, T.wall
  if spec.expires_in < math.huge then job[EXPIRES] = string.format('%.0f', T.now + spec.expires_in) end
  plan(job, spec)
end

local function store(id, data)
  local payloads, last = T.payloads, #T.payloads
  payloads[last + 1], payloads[last + 2] = id, data
end

local function holder_of(name)
  if name == '' then return nil end
  local id = T.names[name]
  if id == nil then id = redis.call('HGET', K.names, name) end
  if id then T.load({id}) end
  return id
end

-- The holder of a unique name gets newer data, and starts when the newer job would; what would start at once keeps its
-- place, or a job that is replaced again and again would never have its turn.
local function replace(holder, digest, request, spec, data)
  local job = T.jobs[holder]
  if T.index[holder] ~= nil then T.commit() end -- what this call did to it comes first in the log
  T.touch(holder)
  job[DIGEST], job[REQUEST] = digest, request
  store(holder, data)
  if starts_at_once(spec) and job[STATE] ~= SCHEDULED then return end
  plan(job, spec)
  if job[UNTIL] == 0 then job[UNTIL] = T.now end
  T.move(holder, 'postpone')
end

-- The unique name is taken: refuse, answer with its holder, or give the holder the newer data.
local function meet(holder, id, digest, spec, data)
  local job, request = T.jobs[holder], string.sub(redis.sha1hex(id), 1, 16)
  local again = spec.conflict == 2 and job[REQUEST] == request and job[DIGEST] == digest
  if not again and spec.conflict == 2 and EDGES.postpone[job[STATE]] then
    replace(holder, digest, request, spec, data)
  elseif not again and spec.conflict ~= 1 then
    return {'not-unique', job[STATE], holder}
  end
  T.watch(holder, spec.home)
  return {holder}
end

-- The pending jobs of a key: counted once, then kept by publish.
local pending = {}
local function count_pending(key)
  if pending[key] then return pending[key] end
  local count, prefix = 0, T.frame(key)
  if key == '' then
    for _, index in ipairs({K.scheduled, K.dated, K.waiting, K.parked, K.available, K.claimed}) do
      count = count + redis.call('ZCARD', index)
    end
  else
    count = redis.call('ZLEXCOUNT', K.keyed, '[' .. prefix, '(' .. prefix .. '\255')
  end
  pending[key] = count
  return count
end

-- Why a limit of a key, or of the queue, refuses one more job.
local function beyond(key, at_once)
  local limits, number, what = T.limits_of(key), nil, nil
  if limits[LIMIT_PENDING] < math.huge and count_pending(key) >= limits[LIMIT_PENDING] then
    number, what = limits[LIMIT_PENDING], 'pending'
  elseif limits[LIMIT_REJECTS] == 1 and at_once and T.room(key) < 1 then
    number, what = limits[LIMIT_RUNNING], 'running'
  end
  return what and {'full', ABSENT, table.concat({key, number, what}, '\0')}
end

local function blocked(key)
  local limits = T.limits_of(key)
  local left = (limits.blocked_until or T.now) - T.now
  return left > 0 and {'blocked', ABSENT, table.concat({key, string.format('%.0f', left), limits.reason}, '\0')}
end

-- A new job, unless it is refused.
local function enter(id, digest, spec)
  local at_once = starts_at_once(spec)
  local refusal = T.limited ~= '' and (spec.key ~= '' and beyond(spec.key, at_once) or beyond('', at_once))
  if refusal then return refusal end
  draft(id, digest, spec)
  if at_once then T.admit(id, 'publish') else T.move(id, 'schedule') end
  if pending[''] then pending[''] = pending[''] + 1 end
  if spec.key ~= '' and pending[spec.key] then pending[spec.key] = pending[spec.key] + 1 end
end

local function publish(id, digest, spec, data)
  local job = T.jobs[id]
  if job and job[STATE] == FINISHED and job[BARE] == 1 and job[UNTIL] <= T.now and T.trusted then
    T.move(id, 'purge')
    T.commit() -- the log has it before the new job of this id, whatever else this call published before
    job = nil
  end
  if job and job[STATE] ~= ABSENT then
    if job[DIGEST] ~= digest then return {'exists', job[STATE], ''} end
    T.watch(id, spec.home)
    return id
  end
  if #data > MOST then return {'too-large', ABSENT, string.format('%.0f', MOST)} end
  local refusal, holder = T.limited ~= '' and spec.key ~= '' and blocked(spec.key), holder_of(spec.unique)
  if refusal then return refusal end
  if holder then return meet(holder, id, digest, spec, data) end
  refusal = enter(id, digest, spec)
  if refusal then return refusal end
  store(id, data)
  return id
end

local ids = T.items(3, 4)
local answers = {(T.new_queue and 1 or 0) + (T.sweep() and 2 or 0)}
for at, id in ipairs(ids) do
  local digest, raw, data = ARGV[4 * at], ARGV[4 * at + 1], ARGV[4 * at + 2]
  SPECS[raw] = SPECS[raw] or read_spec(raw)
  answers[at + 1] = publish(id, digest, SPECS[raw], data)
  if next(T.freed) then T.release_freed() end -- the next one finds who waits ahead of it let go
end
T.release_freed()
for at = 2, #answers do
  local answer = answers[at]
  if type(answer) == 'string' then
    answers[at] = T.packed[answer] or T.pack(T.jobs[answer])
  elseif #answer == 1 then
    answer[2] = T.packed[answer[1]] or T.pack(T.jobs[answer[1]])
  end
end
return answers

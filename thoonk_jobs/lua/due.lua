-- What time alone moves: deadlines, leases, due dates.

local function each_due(index, at, row, act)
  local ids = T.due(index, at)
  T.load(ids)
  for _, id in ipairs(ids) do
    local job = T.jobs[id]
    if job and EDGES[row].from[job[STATE]] then act(id, job) end
  end
  return #ids == 500
end

local function lapse(id)
  T.dispossess(id)
  T.move(id, 'lapse', 'not done in time')
end

local function lose(id, job)
  T.dispossess(id)
  T.bump(job, LOST)
  local most = T.number_setting('max_lost', 3)
  if job[LOST] >= most then
    T.move(id, 'exhaust', 'lost ' .. job[LOST] .. ' claims: its workers died, or their leases ran out')
  else
    T.move(id, 'expire', 'lease')
  end
end

local function promote(id, job)
  T.touch(id)
  job[ORDER], job[UNTIL] = T.draw_order(job[PRIORITY] == math.huge), 0
  T.admit(id, 'promote')
end

-- Settles what is due, bounded; true if there may be more. Deadlines first: a job past its own is not handed out.
function T.settle()
  local more = each_due(K.expiring, T.now, 'lapse', lapse)
  more = each_due(K.claimed, T.now, 'expire', lose) or more
  more = T.release_freed() or more -- who waits comes before who comes due
  more = each_due(K.scheduled, T.now, 'promote', promote) or more
  more = each_due(K.dated, T.wall, 'promote', promote) or more
  more = T.forget_finished(T.now) or more
  T.trim_stalled()
  return T.release_freed() or more
end

-- Milliseconds until something is due, -1 for never.
function T.next_due()
  local soonest = math.huge
  for index, now in pairs({[K.expiring] = T.now, [K.claimed] = T.now, [K.scheduled] = T.now, [K.dated] = T.wall}) do
    local first = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')
    if first[2] then soonest = math.min(soonest, math.max(0, first[2] - now)) end
  end
  return soonest == math.huge and -1 or math.ceil(soonest)
end

-- What time alone moves: deadlines, leases, due dates.

local function each_due(index, at, row, act)
  local ids = T.due(index, at)
  T.load(ids)
  for _, id in ipairs(ids) do
    local job = T.jobs[id]
    if job and EDGES[row][job[STATE]] then act(id, job) end
  end
  return #ids == 500
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

-- Who cannot tell time that passed from a clock that jumped leaves it to those who keep the time, if there are any; a
-- few seconds, as they may be too far away to tell either.
local function for_others()
  if T.trusted or T.proclaim_alarm() == 0 then return false end
  if not T.left then redis.call('HSET', K.meta, 'left', T.wall) end
  return math.abs(T.wall - (T.left or T.wall)) < LEFT_FOR
end

-- Settles what is due, bounded, and sets the alarm anew; true if there may be more. Deadlines first: a job past its own
-- is not handed out.
function T.settle()
  T.stir = true -- for jobs whose first in line were gone
  if for_others() then return false end
  if T.left then redis.call('HDEL', K.meta, 'left') end
  local more = each_due(K.expiring, T.now, 'lapse', T.lapse)
  more = each_due(K.claimed, T.now, 'expire', lose) or more
  T.give_way()
  T.release_freed() -- who waits comes before who comes due
  T.adjust_behind()
  more = each_due(K.scheduled, T.now, 'promote', promote) or more
  more = each_due(K.dated, T.wall, 'promote', promote) or more
  more = T.forget_finished(T.now) or more
  T.trim_stalled()
  T.release_freed()
  more = more or T.behind
  T.soonest = more and T.now or T.next_due()
  T.alarm, T.proclaim = T.soonest, true
  return more
end

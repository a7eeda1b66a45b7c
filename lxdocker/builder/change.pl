# change.pl ROOT: puts files, folders and links into the unpacked image at ROOT, or removes them, as the records on stdin
# say. It works in a chroot, so no path leads outside the image, and executes nothing of the image. On failure, stderr
# has a line `change NUMBER: REASON`, and the exit status is 76.
# A record is the fields KIND NUMBER PATH MODE OWNER GROUP TARGET SIZE, each with a NUL at its end, and SIZE bytes. KIND:
#   file    a new file with these bytes; what is there is replaced, unless it is a folder
#   append  bytes for the end of a file, also of one that a link names
#   folder  a folder, unless there is one; with a TARGET, also mode and owner of one that is there
#   link    a symbolic link to TARGET; what is there is replaced, unless it is a folder
#   absent  removes whatever is there
# MODE is octal; OWNER and GROUP are numbers, or names that the image knows. Empty fields stand for the defaults.
binmode STDIN;
my $root = shift;
my $number = '?';
my $most = 16 << 20; # bytes of the image's list of users that are read
umask 0;
chdir $root && chroot '.' or refuse("entering the image failed: $!");

sub refuse {
	my ($why) = @_;
	$why =~ s/[\0-\x1f\x7f]/?/g;
	print STDERR "change $number: $why\n";
	exit 76;
}

sub what {
	my ($path) = @_;
	return -l $path ? 'a link' : -d _ ? 'a folder' : -f _ ? 'a file' : 'a device, socket or pipe';
}

# The place that a path names, with all links to it followed; unless $last, not the last one. Folders that are missing
# are made, or, without $make, there is no such place.
sub place {
	my ($path, $last, $make) = @_;
	my @names = grep { length && $_ ne '.' } split m{/}, $path;
	my ($at, $hops) = ('', 0);
	while (defined(my $name = shift @names)) {
		if ($name eq '..') { $at =~ s{/[^/]*$}{}; next }
		my $next = "$at/$name";
		lstat $next;
		if (-l _ && (@names || $last)) {
			++$hops <= 40 or refuse("$next leads in a circle");
			my $target = readlink $next;
			$at = '' if $target =~ m{^/};
			unshift @names, grep { length && $_ ne '.' } split m{/}, $target;
			next;
		}
		if (@names && !-d _) {
			-e _ and refuse("$next is " . what($next) . " in the image, not a folder");
			$make or return;
			mkdir $next, 0755 or refuse("making $next failed: $!");
		}
		$at = $next;
	}
	$at =~ m{^/(dev|proc|sys)(/|$)} and refuse("it leads to $at, where an instance has a filesystem of its own");
	return $at eq '' ? '/' : $at;
}

my %known;

# The number of a user or group.
sub id {
	my ($text, $file, $what) = @_;
	return $text if $text =~ /^[0-9]+$/;
	my $list = place($file, 1, 0);
	defined $list && -f $list or refuse("$what $text is unknown: the image has no $file");
	my $key = join ' ', $file, (stat _)[1, 7, 9, 10];
	if (!$known{$key}) {
		-s _ <= $most or refuse("$what $text is unknown: the image's $file is too large to be read");
		open my $lines, '<', $list or refuse("reading $file failed: $!");
		while (<$lines>) {
			my ($name, undef, $found) = split /:/;
			$known{$key}{$name} = $found if defined $found && $found =~ /^[0-9]+$/ && !exists $known{$key}{$name};
		}
		$known{$key}{''} = 0;
	}
	exists $known{$key}{$text} or refuse("$what $text is unknown: the image's $file has no such name");
	return $known{$key}{$text};
}

sub own {
	my ($path, $owner, $group, $default) = @_;
	my $uid = $owner ne '' ? id($owner, '/etc/passwd', 'owner') : $default;
	my $gid = $group ne '' ? id($group, '/etc/group', 'group') : $default;
	$uid == -1 && $gid == -1 or chown $uid, $gid, $path or refuse("owner $uid, group $gid: $!");
}

sub bytes {
	my ($size, $to) = @_;
	while ($size > 0) {
		my $count = read STDIN, my $piece, $size < 1 << 20 ? $size : 1 << 20;
		$count or refuse('the list of changes is incomplete');
		print $to $piece or refuse("writing it failed: $!");
		$size -= $count;
	}
	close $to or refuse("writing it failed: $!");
}

sub file {
	my ($path, $mode, $owner, $group, $size) = @_;
	my $there = place($path, 0, 1);
	lstat $there;
	!-l _ && -d _ and refuse("$path is a folder in the image");
	my $new = ($there =~ s{[^/]*$}{}r) . ".lxd-change-$$";
	unlink $new;
	sysopen my $file, $new, 0301, 0600 or refuse("writing $path failed: $!"); # O_WRONLY | O_CREAT | O_EXCL
	bytes($size, $file);
	own($new, $owner, $group, 0);
	chmod oct($mode ne '' ? $mode : '0644'), $new or refuse("mode of $path: $!");
	rename $new, $there or refuse("writing $path failed: $!");
}

sub append {
	my ($path, $mode, $owner, $group, $size) = @_;
	my $there = place($path, 1, 1);
	lstat $there;
	-e _ or return file($there, $mode, $owner, $group, $size);
	-f _ or refuse("$path is " . what($there) . ' in the image');
	open my $file, '>>', $there or refuse("writing $path failed: $!");
	bytes($size, $file);
	own($there, $owner, $group, -1);
	$mode eq '' or chmod oct $mode, $there or refuse("mode of $path: $!");
}

sub folder {
	my ($path, $mode, $owner, $group, $as_given) = @_;
	my $there = place($path, 1, 1);
	lstat $there;
	my $is_new = !-d _;
	if ($is_new) {
		-e _ and refuse("$path is " . what($there) . ' in the image, not a folder');
		mkdir $there, 0755 or refuse("making $path failed: $!");
	}
	$is_new || $as_given or return;
	own($there, $owner, $group, $is_new ? 0 : -1);
	!$as_given || $mode eq '' or chmod oct $mode, $there or refuse("mode of $path: $!");
}

sub symbolic {
	my ($path, $target) = @_;
	my $there = place($path, 0, 1);
	lstat $there;
	!-l _ && -d _ and refuse("$path is a folder in the image");
	unlink $there if -l _ || -e _;
	symlink $target, $there or refuse("linking $path failed: $!");
}

# Without recursion, since a folder may be as deep as paths can be.
sub absent {
	my ($path) = @_;
	my $there = place($path, 0, 0);
	defined $there or return;
	my @left = ($there);
	while (@left) {
		lstat $left[-1];
		if (!-l _ && !-e _) { pop @left; next }
		if (-l _ || !-d _) { unlink $left[-1] or refuse("removing $left[-1] failed: $!"); pop @left; next }
		rmdir $left[-1] and pop @left and next;
		my $folder = $left[-1];
		opendir my $names, $folder or refuse("removing $folder failed: $!");
		my @inside;
		while (defined(my $name = readdir $names)) {
			next if $name eq '.' || $name eq '..';
			# A folder of millions of files is emptied as it is read.
			lstat "$folder/$name";
			if (-l _ || !-d _) { unlink "$folder/$name" or refuse("removing $folder/$name failed: $!") }
			elsif (!rmdir "$folder/$name") { push @inside, "$folder/$name" }
		}
		closedir $names;
		push @left, @inside;
		@inside or rmdir $folder or refuse("removing $folder failed: $!");
	}
}

sub field { local $/ = "\0"; my $text = <STDIN>; chomp $text if defined $text; return $text }

while (defined(my $kind = field())) {
	($number, my ($path, $mode, $owner, $group, $target, $size)) = map { field() } 1 .. 7;
	defined $size or refuse('the list of changes is incomplete');
	if ($kind eq 'file') { file($path, $mode, $owner, $group, $size) }
	elsif ($kind eq 'append') { append($path, $mode, $owner, $group, $size) }
	elsif ($kind eq 'folder') { folder($path, $mode, $owner, $group, $target) }
	elsif ($kind eq 'link') { symbolic($path, $target) }
	elsif ($kind eq 'absent') { absent($path) }
	else { refuse("no such kind of change: $kind") }
}
